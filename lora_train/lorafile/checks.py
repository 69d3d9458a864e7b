"""Damage inside a complete LoRA file: missing halves, shapes, values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch

from lora_train.errors import LoraTrainError, Problem
from lora_train.lorafile.layouts import ALPHA, DOWN, MID, UP, named
from lora_train.records.kinds import KINDS, numbers
from lora_train.tensors import is_finite

Module = Mapping[str, torch.Tensor]


def partners() -> Iterator[tuple[str, ...]]:
    """Parts that are useless without each other."""
    return (together for kind in KINDS.values() for together in kind.partners)


def problems_of(modules: Mapping[str, Module], where: str) -> list[Problem]:
    """The problems of a file's modules, each kind of problem once, with the keys."""
    found = (
        ("halves are missing", [_missing(name, parts) for name, parts in modules.items()]),
        ("shapes do not fit each other", [_misshapen(name, parts) for name, parts in modules.items()]),
        (
            "values are not finite numbers (NaN or infinite)",
            [_not_finite(name, parts) for name, parts in modules.items()],
        ),
    )
    out = []
    for what, keys in found:
        bad = [key for key in keys if key]
        if bad:
            out.append(Problem(f"{len(bad)} modules' {what} ({named(bad)}).", where, "Download or train it again."))
    return out


def require_sound(modules: Mapping[str, Module], where: str) -> None:
    """Raise LoraTrainError with all of `problems_of`."""
    found = problems_of(modules, where)
    if found:
        raise LoraTrainError.of(found)


def _missing(name: str, parts: Module) -> str:
    """A key that is missing, or ""."""
    for together in partners():
        absent = [part for part in together if part not in parts]
        if absent and len(absent) < len(together):
            return f"{name}.{absent[0]}"
    if not set(parts) - {ALPHA}:
        return f"{name}: alpha alone"
    return ""


def _misshapen(name: str, parts: Module) -> str:
    single = numbers()
    for part, value in parts.items():
        if value.numel() != 1 if part in single else not value.ndim or not value.numel():
            return f"{name}.{part} {tuple(value.shape)}"
    if DOWN not in parts or UP not in parts:
        return ""
    down, up = parts[DOWN], parts[UP]
    middle = parts[MID].shape[:2] if MID in parts else (down.shape[:1] * 2)
    if MID in parts and (
        parts[MID].ndim != 4 or down.ndim != 4
    ):  # the core of a convolution, in a module that is not one
        return f"{name}: {MID} {tuple(parts[MID].shape)}, {DOWN} {tuple(down.shape)}"
    fits = (
        down.ndim in (2, 4)
        and up.ndim in (2, 4)
        and min(*down.shape, *up.shape) > 0
        and tuple(middle) == (up.shape[1], down.shape[0])
        and up[0, 0].numel() == 1
    )
    return "" if fits else f"{name}: {UP} {tuple(up.shape)}, {DOWN} {tuple(down.shape)}"


def _not_finite(name: str, parts: Module) -> str:
    for part, value in parts.items():
        if not is_finite(value):
            return f"{name}.{part}"
    return ""

"""How torch computes during a run; the host's own settings are back after it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch

from lora_train.config import TrainOptions

CUBLAS = "CUBLAS_WORKSPACE_CONFIG"
"""cuBLAS reads it when it is first used; its products are not deterministic without."""


@contextmanager
def fast_math(options: TrainOptions, device: torch.device) -> Iterator[None]:
    """Within the block torch computes as `options` want it: TF32 in products of fp32, cuDNN's fastest convolutions,
    or only deterministic operations (with a warning where there is no such one). Without effect except on CUDA.
    """
    if device.type != "cuda":
        yield
        return
    sure = options.deterministic
    wanted = {
        (torch.backends.cuda.matmul, "allow_tf32"): "tf32" not in options.speedups_off,
        (torch.backends.cudnn, "allow_tf32"): "tf32" not in options.speedups_off,
        (torch.backends.cudnn, "benchmark"): "benchmark" not in options.speedups_off and not sure,
        (torch.backends.cudnn, "deterministic"): sure,
    }
    before = _now(wanted)
    wanted = {place: value for place, value in wanted.items() if place in before}
    algorithms = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    if sure:
        os.environ.setdefault(CUBLAS, ":4096:8")
    _set(wanted)
    torch.use_deterministic_algorithms(sure or algorithms[0], warn_only=True if sure else algorithms[1])
    try:
        yield
    finally:
        _set(before)
        torch.use_deterministic_algorithms(algorithms[0], warn_only=algorithms[1])


def _now(places: Iterable[tuple[Any, str]]) -> dict[tuple[Any, str], bool]:
    """The present settings; those that cannot be read are left alone (torch refuses the older names of TF32's where
    the host has used the newer)."""
    found = {}
    for place in places:
        with suppress(RuntimeError):
            found[place] = getattr(*place)
    return found


def _set(values: dict[tuple[Any, str], bool]) -> None:
    for (where, name), value in values.items():
        setattr(where, name, value)

"""Values that some tools write with another meaning, converted to the common one."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from lora_train.lorafile.checks import partners
from lora_train.lorafile.layouts import ALPHA, DOWN, LORA_BIAS, OFT_PREFIX, named
from lora_train.lorafile.understanding import LeftOut
from lora_train.networks.registry import known_parts
from lora_train.records.kinds import KINDS, kind_within

_HALF_MAX = 65504.0
"""fp16's largest number: values written for "no alpha" are above it."""

Modules = dict[str, dict[str, torch.Tensor]]


def settle(modules: Modules, paths: Mapping[str, str], left_out: LeftOut) -> Modules:
    """The modules as their writers meant them, without parts that no kind of network has.

    `paths` are the modules' names in the file. Changes and ignored parts are added to `left_out`.
    Raises ValueError when no network is left.
    """
    for parts in modules.values():
        _bias_of_up(parts)
        _idle_alpha(parts)
    _still_rotations(modules, paths, left_out)
    _zero_alphas(modules, left_out)
    known = {name: parts for name in modules if (parts := _known(name, modules[name], left_out))}
    if not known:
        said = next(iter(left_out.keys.values()))
        raise ValueError(f"it has no network of a known kind ({named(said)})")
    return known


def _bias_of_up(parts: dict[str, torch.Tensor]) -> None:
    """peft's `lora_B.bias` is scaled, LyCORIS' `diff_b` is not."""
    bias = parts.pop(LORA_BIAS, None)
    if bias is None:
        return
    alpha, rank = parts.get(ALPHA), parts[DOWN].shape[0] if DOWN in parts and parts[DOWN].ndim else 0
    scale = (float(alpha.flatten()[0]) if alpha is not None and alpha.numel() else 0.0) / rank if rank else 1.0
    change = bias.float() * (scale or 1.0)
    parts["diff_b"] = (parts["diff_b"].float() + change if "diff_b" in parts else change).to(bias.dtype)


def _idle_alpha(parts: dict[str, torch.Tensor]) -> None:
    """Alpha without effect, as for LoKr of full matrices: ai-toolkit writes 9999999999, which is infinite in fp16."""
    if ALPHA not in parts or _within_half(parts[ALPHA]):
        return
    kind = kind_within(parts)
    if kind is not None and kind.scaled and not parts.keys() & {*kind.scaled}:
        parts[ALPHA] = torch.tensor(1.0)


def _within_half(alpha: torch.Tensor) -> bool:
    return bool((alpha.float().abs() <= _HALF_MAX).all())


def _still_rotations(modules: Modules, paths: Mapping[str, str], left_out: LeftOut) -> None:
    """sd-scripts' OFT with alpha 0 allows no rotation; all other programs read 0 as no bound."""
    still = [
        name
        for name, parts in modules.items()
        if paths[name].startswith(OFT_PREFIX) and "oft_blocks" in parts and _is_zero(parts.get(ALPHA))
    ]
    for name in still:
        modules[name]["oft_blocks"] = torch.zeros_like(modules[name]["oft_blocks"])
    left_out.still += still
    if still:
        left_out.notes.append(
            f"alpha is 0 in {len(still)} modules, which sd-scripts' OFT reads as no rotation at all: nothing changes."
        )


def _zero_alphas(modules: Modules, left_out: LeftOut) -> None:
    """Programs differ on alpha 0, and in fp16 a tiny alpha becomes 0: a note says so."""
    scaled = {part for kind in KINDS.values() for part in kind.scaled}
    zero = [n for n, parts in modules.items() if _is_zero(parts.get(ALPHA)) and parts.keys() & scaled]
    if zero:
        left_out.notes.append(
            f"alpha is 0 in {len(zero)} modules ({named(zero)}): it is read as the rank, as sd-scripts and LyCORIS do; "
            "AUTOMATIC1111's WebUI and ComfyUI do not apply them."
        )


def _is_zero(alpha: torch.Tensor | None) -> bool:
    return alpha is not None and alpha.numel() == 1 and float(alpha) == 0.0


def _known(name: str, parts: dict[str, torch.Tensor], left_out: LeftOut) -> dict[str, torch.Tensor]:
    """The parts of a module that belong to its kind of network; empty if the kind is unknown."""
    known = known_parts(parts)
    if not known and any(part in parts for together in partners() for part in together):
        return parts  # half of a network: damage, which the checks report
    for part in sorted(parts.keys() - known):
        left_out.add("parts that no known kind of network has", f"{name}.{part}")
    return {part: value for part, value in parts.items() if part in known}

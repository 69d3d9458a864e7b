"""LoRAs merged into a checkpoint, which then needs no LoRA; written tensor by tensor."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch

from lora_train.errors import LoraTrainError
from lora_train.lorafile.base_model import made_for
from lora_train.lorafile.checkpoints import Checkpoint, Place, open_checkpoint, places_of
from lora_train.lorafile.deltas import deltas_for
from lora_train.lorafile.hashes import model_hash
from lora_train.lorafile.layouts import named
from lora_train.lorafile.merging import check_weights
from lora_train.lorafile.reading import LoraFile
from lora_train.lorafile.writing import Progress, Slot, check_output, no_progress, write_stream
from lora_train.tensors import is_finite

MERGED = "lora_train.merged"
"""Metadata of the result: names, weights and hashes of the merged files, as JSON."""
BIAS_PARTS = frozenset(("diff_b", "b_norm"))
"""Parts that change a bias."""
_STALE = ("modelspec.hash_sha256",)
_EIGHT_BITS, _WIDE = ("F8_E4M3", "F8_E5M2"), "F16"
"""8-bit floating point dtypes (as in the safetensors header), and a dtype that holds their values."""
_SCALES = (".scale_weight", ".weight_scale", "scaled_fp8")
"""Endings of keys that mark scaled weights (ComfyUI's scaled fp8)."""
_MAX_ROUNDING = 0.5
"""The share of a change's norm that may be lost to rounding without a note. Rounding goes both ways, so sums of many
inputs lose less than this."""


@dataclass(frozen=True)
class _Change:
    """One module's change of one tensor."""

    name: str
    place: Place
    parts: Mapping[str, torch.Tensor]
    weight: float
    file: Path


def merge_into(
    checkpoint: Path,
    files: Sequence[LoraFile],
    weights: Sequence[float],
    output: Path,
    overwrite: bool = False,
    progress: Progress = no_progress,
    tell: Callable[[str], None] = lambda text: None,
) -> tuple[str, ...]:
    """Write `checkpoint` with weight x delta of each file added, in its own dtypes; sums are in fp32.

    Changed 8-bit tensors become fp16, whose steps are small enough for a LoRA's change; if a change is lost in the
    steps of 16 bits, `tell` is called. Returns the names of modules that the checkpoint lacks, which are left out.
    Raises LoraTrainError when a file fits no module, shapes differ, sums are too large, the weights are quantised, or
    the output exists.
    """
    check_weights(len(files), weights)
    check_output(output, overwrite)
    base = open_checkpoint(checkpoint)
    changes, unmatched = _changes(base, files, weights)
    _require_plain(base, changes)
    wider = [key for key in changes if base.dtypes[key] in _EIGHT_BITS]
    if wider:
        tell(
            f"{len(wider)} tensors that change are {base.dtypes[wider[0]]} in the checkpoint and F16 in the result: "
            "steps of 8 bits would lose a LoRA's change to rounding."
        )
    rounding = _Rounding()
    slots = {
        key: Slot(_WIDE if key in wider else dtype, base.shapes[key], _maker(base, key, changes.get(key, ()), rounding))
        for key, dtype in base.dtypes.items()
    }
    metadata = {key: value for key, value in base.metadata.items() if key not in _STALE}
    merged = [
        {"name": file.path.name, "weight": weight, "sshs_model_hash": model_hash(file.path, file.metadata)}
        for file, weight in zip(files, weights)
    ]
    write_stream(output, slots, metadata | {MERGED: json.dumps(merged, ensure_ascii=False)}, progress)
    rounding.report(tell)
    return unmatched


def _require_plain(base: Checkpoint, changes: Mapping[str, Sequence[_Change]]) -> None:
    """Raise LoraTrainError when tensors to be changed are not plain floating point numbers."""
    scaled = [key for key in base.shapes if key.endswith(_SCALES)]
    whole = [key for key in changes if not base.dtypes[key].startswith(("F", "BF"))]
    if scaled or whole:
        raise LoraTrainError(
            f"its weights are quantised ({named(scaled or whole)}); a LoRA cannot be added to them.",
            str(base.path),
            "Merge into the fp16, bf16 or fp32 version of this checkpoint.",
        )


@dataclass
class _Rounding:
    """How much of the changes is lost in the dtypes of the result."""

    changed: int = 0
    lost: list[str] = field(default_factory=list)

    def note(self, key: str, change: torch.Tensor, original: torch.Tensor, merged: torch.Tensor) -> None:
        """Count a tensor, from its change (fp32), its original and its written value.

        In fp64, so that a change too weak for fp32 is counted as lost, too.
        """
        wide = change.double()
        wanted = torch.linalg.vector_norm(wide)
        self.changed += 1
        if wanted > 0 and torch.linalg.vector_norm(merged.double() - original.double() - wide) > _MAX_ROUNDING * wanted:
            self.lost.append(key)

    def report(self, tell: Callable[[str], None]) -> None:
        """Report the tensors whose change is mostly lost."""
        if self.lost:
            tell(
                f"in {len(self.lost)} of the {self.changed} changed tensors the change is so weak that most of it is "
                f"lost to rounding ({named(self.lost)}); an fp32 checkpoint keeps more."
            )


def _changes(
    base: Checkpoint, files: Sequence[LoraFile], weights: Sequence[float]
) -> tuple[dict[str, list[_Change]], tuple[str, ...]]:
    """The changes of each tensor, and the modules that the checkpoint lacks."""
    places = places_of(base)
    changes: dict[str, list[_Change]] = {}
    unmatched: list[str] = []
    for file, weight in zip(files, weights):
        modules = file.by_module()
        absent = [name for name in modules if name not in places]
        if len(absent) == len(modules):
            base_said = made_for(file)
            raise LoraTrainError(
                f"this LoRA was made for another base model{', ' + base_said if base_said else ''}: "
                f"{base.path.name} has none of its modules ({named(absent)}).",
                str(file.path),
                "Merge it into its own base.",
            )
        unmatched += absent
        for name, parts in modules.items():
            if name in places:
                change = _Change(name, places[name], parts, weight, file.path)
                changes.setdefault(change.place.key, []).append(change)
                bias = change.place.key.removesuffix("weight") + "bias"
                if BIAS_PARTS.isdisjoint(parts):
                    continue
                if bias not in base.shapes:
                    unmatched.append(f"{name}'s bias")
                else:
                    changes.setdefault(bias, []).append(change)
    return changes, tuple(unmatched)


def _maker(base: Checkpoint, key: str, changes: Sequence[_Change], rounding: _Rounding) -> Callable[[], torch.Tensor]:
    return partial(_changed, base, key, changes, rounding) if changes else partial(base.get, key)


def _changed(base: Checkpoint, key: str, changes: Sequence[_Change], rounding: _Rounding) -> torch.Tensor:
    original = base.get(key)
    summed = original.float().clone()
    added = torch.zeros_like(summed)
    for change in changes:
        place = change.place
        weight = place.view(base.get(place.key)).float()
        try:
            delta = deltas_for(weight, change.parts)[place.key != key]
        except ValueError as error:
            raise LoraTrainError(
                f"{change.name} does not fit {base.path.name} ({error}).",
                str(change.file),
                "Merge it into its own base.",
            ) from error
        if delta is not None:
            place.view(summed).add_(delta, alpha=change.weight)
            place.view(added).add_(delta, alpha=change.weight)
    merged = summed.to(torch.float16 if base.dtypes[key] in _EIGHT_BITS else original.dtype)
    if not is_finite(merged) and is_finite(original):
        raise LoraTrainError(
            f"{key} would have values that its {base.dtypes[key]} cannot hold.",
            ", ".join(str(file) for file in dict.fromkeys(change.file for change in changes)),
            "Give smaller weights.",
        )
    rounding.note(key, added, original, merged)
    return merged

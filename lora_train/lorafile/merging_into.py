"""LoRAs merged into a checkpoint: a checkpoint that needs no LoRA, written tensor by tensor."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
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
"""Metadata of the result: names, weights and hashes of what was merged, as JSON."""
BIAS_PARTS = frozenset(("diff_b", "b_norm"))
"""Parts that change a bias."""
_STALE = ("modelspec.hash_sha256",)


@dataclass(frozen=True)
class _Change:
    """One module's part in one tensor."""

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
) -> tuple[str, ...]:
    """Write `checkpoint` with weight x delta of each file added, in its own dtypes; sums are in fp32.

    Returns the names of modules that the checkpoint lacks, which are left out.
    Raises LoraTrainError when a file fits no module, shapes differ, sums are too large, or the output exists.
    """
    check_weights(len(files), weights)
    check_output(output, overwrite)
    base = open_checkpoint(checkpoint)
    changes, unmatched = _changes(base, files, weights)
    slots = {
        key: Slot(dtype, base.shapes[key], _maker(base, key, changes.get(key, ())))
        for key, dtype in base.dtypes.items()
    }
    metadata = {key: value for key, value in base.metadata.items() if key not in _STALE}
    merged = [
        {"name": file.path.name, "weight": weight, "sshs_model_hash": model_hash(file.path, file.metadata)}
        for file, weight in zip(files, weights)
    ]
    write_stream(output, slots, metadata | {MERGED: json.dumps(merged, ensure_ascii=False)}, progress)
    return unmatched


def _changes(
    base: Checkpoint, files: Sequence[LoraFile], weights: Sequence[float]
) -> tuple[dict[str, list[_Change]], tuple[str, ...]]:
    """What changes each tensor, and the modules that the checkpoint lacks."""
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


def _maker(base: Checkpoint, key: str, changes: Sequence[_Change]) -> Callable[[], torch.Tensor]:
    return partial(_changed, base, key, changes) if changes else partial(base.get, key)


def _changed(base: Checkpoint, key: str, changes: Sequence[_Change]) -> torch.Tensor:
    original = base.get(key)
    summed = original.float().clone()
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
    merged = summed.to(original.dtype)
    if not is_finite(merged) and is_finite(original):
        raise LoraTrainError(
            f"{key} would have values that its {base.dtypes[key]} cannot hold.",
            ", ".join(str(file) for file in dict.fromkeys(change.file for change in changes)),
            "Give smaller weights.",
        )
    return merged

"""The difference of two checkpoints as a LoRA, by SVD."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch

from lora_train.errors import LoraTrainError
from lora_train.lorafile.checkpoints import Place, family_of, open_checkpoint, places_of, require_same_shape
from lora_train.lorafile.factors import Cut, cut_delta
from lora_train.lorafile.reading import LoraFile
from lora_train.lorafile.resizing import ModuleCut, dimensions
from lora_train.lorafile.writing import Progress, no_progress
from lora_train.models.names import TEXT_TARGETS, UNET_CONV_TARGETS, UNET_TARGETS
from lora_train.records.families import FAMILIES, is_text
from lora_train.tensors import is_finite


@dataclass(frozen=True)
class Extraction:
    """How a LoRA is extracted."""

    cut: Cut
    convolutions: Cut | None = None
    """The cut for kernels larger than 1 x 1; None: none of these, and only the transformers' blocks."""
    clamp: float = 1.0
    """Quantile to which entries of the singular vectors are clamped (kohya's default is 0.99); 1: not clamped."""
    min_difference: float = 0.0
    """Modules whose weights differ by no more than this anywhere are left out."""
    text: bool = True

    def __post_init__(self) -> None:
        if not 0 < self.clamp <= 1:
            raise LoraTrainError(
                f"{self.clamp:g} is not a valid quantile.", "clamp", "Give a value above 0, up to 1 (not clamped)."
            )
        if not 0 <= self.min_difference < math.inf:
            raise LoraTrainError(
                f"{self.min_difference:g} is not a valid difference.", "min-difference", "Give 0 or more."
            )


def extract(
    base: Path, tuned: Path, how: Extraction, progress: Progress = no_progress
) -> tuple[LoraFile, list[ModuleCut]]:
    """The LoRA (fp32) that turns `base` into `tuned`, and the share of its difference that each module's cut kept.

    The modules are kohya's targets. Raises LoraTrainError when the checkpoints are of different families or
    do not differ.
    """
    before, after = open_checkpoint(base), open_checkpoint(tuned)
    family = family_of(before)
    if family_of(after) != family:
        raise LoraTrainError(f"it is of another family than {base.name} ({family}).", str(tuned))
    places, theirs = _wanted(places_of(before), how), places_of(after)
    tensors: dict[str, torch.Tensor] = {}
    cuts = []
    for number, (name, place) in enumerate(sorted(places.items())):
        progress(number, len(places))
        other = require_same_shape(name, place, before, theirs.get(name), after)
        # the difference of half-precision weights is taken in fp32, where it is exact or nearly so
        delta = other.view(after.get(other.key)).float() - place.view(before.get(place.key)).float()
        if not is_finite(delta):
            raise LoraTrainError(f"{place.key} has values that are not finite.", f"{base}, {tuned}")
        if float(delta.abs().max()) <= how.min_difference:
            continue
        kernel = delta.ndim == 4 and delta.shape[2:] != (1, 1)
        cut = how.convolutions if kernel and how.convolutions is not None else how.cut
        factors, kept = cut_delta(delta.flatten(1), tuple(delta.shape[1:]), cut, how.clamp)
        tensors |= {f"{name}.{part}": value for part, value in factors.tensors().items()}
        cuts.append(ModuleCut(name, min(delta.flatten(1).shape), factors.rank, kept))
    progress(len(places), len(places))
    if not tensors:
        raise LoraTrainError(
            "the two checkpoints do not differ in any module that a LoRA can change.", f"{base}, {tuned}"
        )
    return LoraFile(tuned, dict(sorted(tensors.items())), _metadata(family, base, tuned) | dimensions(tensors)), cuts


def _wanted(places: dict[str, Place], how: Extraction) -> dict[str, Place]:
    unet = UNET_TARGETS if how.convolutions is None else UNET_CONV_TARGETS
    found: dict[Place, str] = {}
    for name, place in places.items():
        text = is_text(name)
        if (TEXT_TARGETS if text else unet).fullmatch(place.path) and (how.text or not text):
            found.setdefault(place, name)  # SDXL's modules have two names; kohya's comes first
    return {name: place for place, name in found.items() if not _is_norm(place)}


def _is_norm(place: Place) -> bool:
    return "norm" in place.path.rpartition(".")[2]


def _metadata(family: str, base: Path, tuned: Path) -> dict[str, str]:
    record = FAMILIES[family]
    predicts = record.predictions[0]
    return {
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": predicts.architecture,
        "modelspec.title": tuned.stem,
        "ss_base_model_version": predicts.version,
        "ss_network_module": "networks.lora",
        "ss_sd_model_name": base.name,
        "ss_training_comment": f"extracted from {tuned.name}",
        "ss_v2": str(record.metadata.get("ss_v2", False)),
    }

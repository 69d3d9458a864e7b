"""Several LoRAs merged into one: their weighted sum."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch

from lora_train.errors import LoraTrainError
from lora_train.lorafile.base_model import made_for
from lora_train.lorafile.factors import Cut, Factors, cut_factors, factors_of
from lora_train.lorafile.layouts import DOWN
from lora_train.lorafile.reading import LoraFile
from lora_train.lorafile.resizing import dimensions, require_factors
from lora_train.lorafile.writing import Progress, narrowed, no_progress
from lora_train.networks.full import BIAS

_SHARED = ("ss_base_model_version", "ss_sd_model_name", "ss_sd_model_hash", "ss_new_sd_model_hash", "ss_v2")
_SHARED_SPEC = (
    "modelspec.architecture",
    "modelspec.prediction_type",
    "modelspec.resolution",
    "modelspec.implementation",
)


def merge(
    files: Sequence[LoraFile],
    weights: Sequence[float],
    cut: Cut | None = None,
    progress: Progress = no_progress,
    dtype: torch.dtype | None = None,
) -> LoraFile:
    """One LoRA whose delta is the sum of weight x delta of each file.

    Without `cut` the result is exact: ranks are concatenated, so they add up. With it, it is the best approximation of
    the cut's rank. `dtype` is the result's, if it can hold the values; None: the widest of the files'.
    Raises LoraTrainError when the files do not fit each other, or are of kinds that two factors cannot express.
    """
    _require_alike(files, weights)
    modules = [file.by_module() for file in files]
    names = sorted({name for one in modules for name in one})
    dtype = dtype or _widest(files)
    tensors: dict[str, torch.Tensor] = {}
    for number, name in enumerate(names):
        progress(number, len(names))
        found = [(factors_of(one[name]), weight) for one, weight in zip(modules, weights) if name in one]
        shapes = {(factors.up.shape[0], *factors.shape) for factors, _ in found}
        if len(shapes) > 1:
            raise LoraTrainError(
                f"{name} has different shapes in the files ({', '.join(map(str, sorted(shapes)))}).",
                ", ".join(file.path.name for file in files),
                "Merge LoRAs of the same base model.",
            )
        together = _beside(found)
        if cut is not None:
            together = cut_factors(together, cut)[0]
        for part, value in together.tensors().items():
            tensors[f"{name}.{part}"] = value if part == "alpha" else narrowed(value, dtype)
        biases = [one[name][BIAS].float() * w for one, w in zip(modules, weights) if BIAS in one.get(name, {})]
        if biases:
            tensors[f"{name}.{BIAS}"] = narrowed(torch.stack(biases).sum(0), dtype)
    progress(len(names), len(names))
    return LoraFile(Path("merged.safetensors"), tensors, _metadata(files, weights) | dimensions(tensors))


def _widest(files: Sequence[LoraFile]) -> torch.dtype:
    """The first dtype with the most bytes; at least fp16, since a sum would be lost in 8 bits."""
    dtypes = [value.dtype for file in files for key, value in file.tensors.items() if key.endswith(DOWN)]
    return max([*dtypes, torch.float16], key=lambda one: one.itemsize)


def _beside(found: list[tuple[Factors, float]]) -> Factors:
    """The ranks of all, concatenated; each side has a weight's square root, and `up` its sign."""
    ups = [factors.up * (abs(weight) ** 0.5) * (-1 if weight < 0 else 1) for factors, weight in found]
    downs = [factors.down * abs(weight) ** 0.5 for factors, weight in found]
    return Factors(torch.cat(ups, 1), torch.cat(downs), found[0][0].shape)


def check_weights(files: int, weights: Sequence[float]) -> None:
    """Raise LoraTrainError unless there is a finite weight for each of the files."""
    if not files or files != len(weights):
        raise LoraTrainError(f"there are {files} files and {len(weights)} weights.", "weights", "Give one each.")
    if not all(map(math.isfinite, weights)):
        raise LoraTrainError("not all weights are finite numbers.", "weights", "1 is usual.")


def _require_alike(files: Sequence[LoraFile], weights: Sequence[float]) -> None:
    check_weights(len(files), weights)
    for file in files:
        require_factors(file, "merged")
    bases = {base: file.path.name for file in files if (base := made_for(file))}
    if len(bases) > 1:
        said = ", ".join(f"{name} for {base}" for base, name in bases.items())
        raise LoraTrainError(f"the LoRAs are for different base models ({said}).", str(files[0].path))


def _metadata(files: Sequence[LoraFile], weights: Sequence[float]) -> dict[str, str]:
    """The metadata on which all files agree, and the list of what was merged."""
    metadata = {
        key: files[0].metadata[key]
        for key in (*_SHARED, *_SHARED_SPEC)
        if key in files[0].metadata and len({file.metadata.get(key) for file in files}) == 1
    }
    said = ", ".join(f"{file.path.stem} x {weight:g}" for file, weight in zip(files, weights))
    return metadata | {
        "modelspec.sai_model_spec": "1.0.1",
        "ss_network_module": "networks.lora",
        "ss_training_comment": f"merged from {said}",
    }

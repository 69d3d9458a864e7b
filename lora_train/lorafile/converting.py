"""A LoRA in kohya's, diffusers' or peft's layout.

diffusers has no place for alpha, so it is multiplied into the matrices; peft has a configuration beside the file.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lora_train.atomic import write_json
from lora_train.errors import LoraTrainError
from lora_train.lorafile.adapter_config import METADATA_KEY, make_config
from lora_train.lorafile.factors import alpha_of
from lora_train.lorafile.families import family_of, known_family
from lora_train.lorafile.layouts import ALPHA, DORA, DOWN, MID, UP, named
from lora_train.lorafile.names import component_of, diffusers_paths, path_of
from lora_train.lorafile.reading import ADAPTER_CONFIG, WEIGHTS, LoraFile
from lora_train.lorafile.writing import DTYPES, KEEP, dtype_name, is_number, narrowed, refuse_existing, write_lora
from lora_train.networks.full import BIAS
from lora_train.records.families import is_text
from lora_train.tensors import is_finite

PEFT_PREFIX = "base_model.model."
_CONVERTED = {DOWN, UP, MID, ALPHA, DORA}


@dataclass(frozen=True)
class _Pair:
    """One module's LoRA in diffusers' terms."""

    component: str
    path: str
    down: torch.Tensor
    up: torch.Tensor
    alpha: float
    magnitude: torch.Tensor | None


def diffusers_tensors(file: LoraFile) -> dict[str, torch.Tensor]:
    """The file's tensors in diffusers' layout: `unet.PATH.lora_A.weight`, alpha multiplied into `lora_B`.

    A `lora_B` whose dtype cannot hold the product exactly becomes fp32.
    Raises LoraTrainError that names the modules that this layout cannot hold.
    """
    out = {}
    for pair in _pairs(file):
        name = f"{pair.component}.{pair.path}"
        out[f"{name}.lora_A.weight"] = pair.down
        out[f"{name}.lora_B.weight"] = _scaled(pair.up, pair.alpha / pair.down.shape[0])
        if pair.magnitude is not None:
            # peft's older files lack the ".weight"; without it transformers 5 silently drops a text encoder's
            out[f"{name}.lora_magnitude_vector.weight"] = pair.magnitude
    return out


def peft_adapters(file: LoraFile) -> dict[str, tuple[dict[str, torch.Tensor], dict[str, Any]]]:
    """Tensors and `adapter_config.json` in peft's layout, by component ("unet", "text_encoder").

    Raises LoraTrainError that names the modules that this layout cannot hold.
    """
    out: dict[str, tuple[dict[str, torch.Tensor], dict[str, Any]]] = {}
    pairs = _pairs(file)
    for component in sorted({pair.component for pair in pairs}):
        tensors = {}
        its = [pair for pair in pairs if pair.component == component]
        with_magnitude = [pair for pair in its if pair.magnitude is not None]
        if with_magnitude and len(with_magnitude) < len(its):
            raise _cannot(file, "peft's", [pair.path for pair in its if pair.magnitude is None], "DoRA on some only")
        for pair in its:
            tensors[f"{PEFT_PREFIX}{pair.path}.lora_A.weight"] = pair.down
            tensors[f"{PEFT_PREFIX}{pair.path}.lora_B.weight"] = pair.up
            if pair.magnitude is not None:
                tensors[f"{PEFT_PREFIX}{pair.path}.lora_magnitude_vector"] = pair.magnitude
        ranks = {pair.path: pair.down.shape[0] for pair in its}
        out[component] = tensors, make_config(ranks, {pair.path: pair.alpha for pair in its}, bool(with_magnitude))
    return out


def write_kohya(file: LoraFile, path: Path, precision: str = KEEP, overwrite: bool = False) -> tuple[str, ...]:
    """Write `file` in kohya's layout; returns the notes of `write_lora`.

    Raises LoraTrainError when it exists or cannot be written.
    """
    metadata = {key: value for key, value in file.metadata.items() if key not in ("format", METADATA_KEY)}
    return _write(path, file.tensors, metadata, precision, overwrite)


def write_diffusers(file: LoraFile, path: Path, precision: str = KEEP, overwrite: bool = False) -> tuple[str, ...]:
    """Write `file` in diffusers' layout; returns the notes of `write_lora`.

    Raises LoraTrainError when it exists or cannot be held or written.
    """
    metadata = {key: value for key, value in file.metadata.items() if key != METADATA_KEY}
    return _write(path, diffusers_tensors(file), metadata | {"format": "pt"}, precision, overwrite)


def write_peft(file: LoraFile, folder: Path, precision: str = KEEP, overwrite: bool = False) -> tuple[str, ...]:
    """Write `file` as folders `unet/`, `text_encoder/` ... below `folder`, each a peft adapter.

    Returns the notes of `write_lora`. Raises LoraTrainError when one exists or cannot be held or written.
    """
    adapters = peft_adapters(file)
    for component in adapters:
        refuse_existing(folder / component / WEIGHTS[0], overwrite)
        refuse_existing(folder / component / ADAPTER_CONFIG, overwrite)
    metadata = {key: value for key, value in file.metadata.items() if key != METADATA_KEY} | {"format": "pt"}
    notes: list[str] = []
    for component, (tensors, config) in adapters.items():
        notes += _write(folder / component / WEIGHTS[0], tensors, metadata, precision, overwrite)
        write_json(folder / component / ADAPTER_CONFIG, config)
    return tuple(notes)


WRITERS: dict[str, Callable[[LoraFile, Path, str, bool], tuple[str, ...]]] = {
    "kohya": write_kohya,
    "diffusers": write_diffusers,
    "peft": write_peft,
}
"""Layouts that can be written; peft's is a folder."""


def _write(
    path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str], precision: str, over: bool
) -> tuple[str, ...]:
    """Like `write_lora`, but values too large for the chosen precision are refused."""
    for name, value in tensors.items():
        if not is_number(name) and not is_finite(value.to(DTYPES.get(precision, value.dtype))):
            raise LoraTrainError(
                f"{name} has values that {dtype_name(value.to(DTYPES.get(precision, value.dtype)))} cannot hold.",
                str(path),
                "Give smaller strengths, or write it as fp32 or bf16.",
            )
    return write_lora(path, tensors, metadata, precision, over)


def _pairs(file: LoraFile) -> list[_Pair]:
    modules = {name: _without_idle_bias(parts) for name, parts in file.by_module().items()}
    odd = [name for name, parts in modules.items() if not {DOWN, UP} <= parts.keys() <= _CONVERTED]
    if odd:
        fix = "Make a LoRA of it: `lora-train file merge-into` its base, then `extract`."
        raise _cannot(file, "diffusers' and peft's", odd, "other kinds of network than LoRA and DoRA", fix)
    nameless = [name for name in modules if path_of(name) is None]
    if nameless:
        raise _cannot(file, "diffusers' and peft's", nameless, "modules whose path is unknown")
    family = known_family(family_of(modules, file.metadata))
    diffusers_path = diffusers_paths(family, modules)
    return [_pair(name, parts, component_of(name, family), diffusers_path) for name, parts in modules.items()]


def _without_idle_bias(parts: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The parts without a bias of zeros, which ComfyUI writes for most modules."""
    return {part: value for part, value in parts.items() if part != BIAS or bool(value.float().any())}


def _pair(name: str, parts: dict[str, torch.Tensor], component: str, diffusers_path: Callable[[str], str]) -> _Pair:
    path = path_of(name)
    assert path is not None
    down, up = parts[DOWN], parts[UP]
    if MID in parts:  # the core and the 1 x 1 in front of it are one convolution
        down = narrowed(torch.einsum("mnkl,nixy->mikl", parts[MID].float(), down.float()), down.dtype)
    return _Pair(
        component,
        path if is_text(name) else diffusers_path(path),
        down,
        up,
        alpha_of(parts),
        _magnitude(name, parts[DORA], up.shape[0]) if DORA in parts else None,
    )


def _magnitude(name: str, scale: torch.Tensor, rows: int) -> torch.Tensor:
    """LyCORIS' `dora_scale` in peft's form: a value per row, (1, out, 1, 1) for convolutions."""
    if scale.shape[0] != rows or scale.numel() != rows:
        raise LoraTrainError(
            f"the magnitudes of {name} are by columns, which diffusers and peft cannot hold.",
            fix="Keep kohya's layout.",
        )
    return scale.reshape(-1) if scale.ndim == 2 else scale.reshape(1, rows, 1, 1)


def _scaled(up: torch.Tensor, scale: float) -> torch.Tensor:
    if scale == 1.0:
        return up
    exact = up.float() * scale
    cast = exact.to(up.dtype)
    return cast if torch.equal(cast.float(), exact) else exact


def _cannot(
    file: LoraFile, layout: str, keys: list[str], what: str, fix: str = "Keep kohya's layout."
) -> LoraTrainError:
    return LoraTrainError(f"{layout} layout cannot hold {what} ({named(keys)}).", str(file.path), fix)

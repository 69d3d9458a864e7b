"""Read LoRA files of any layout into one form: tensors under kohya's names."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lora_train.errors import LoraTrainError
from lora_train.lorafile.adapter_config import alpha_of, configs_in_metadata
from lora_train.lorafile.checks import require_sound
from lora_train.lorafile.contents import NotLora
from lora_train.lorafile.layouts import ALPHA, DOWN, LORA_BIAS, UP, named
from lora_train.lorafile.meanings import settle
from lora_train.lorafile.names import components_of
from lora_train.lorafile.understanding import Read, adapters_in, understand
from lora_train.records.families import sides
from lora_train.tensors import header_metadata, holds_safetensors, odd_metadata, read_header, read_tensors

ADAPTER_CONFIG = "adapter_config.json"
WEIGHTS = (
    "adapter_model.safetensors",
    "adapter_model.bin",
    "pytorch_lora_weights.safetensors",
    "pytorch_lora_weights.bin",
)
"""The names of the file in a folder of peft or diffusers."""

_GIVE = "Give a LoRA file (.safetensors, .pt, .ckpt), or a folder as peft and diffusers write them."


@dataclass(frozen=True)
class LoraFile:
    """A LoRA as read: tensors by full key, and the file's metadata."""

    path: Path
    tensors: dict[str, torch.Tensor]
    metadata: dict[str, str]
    layout: str = "kohya"
    """The naming in the file: "kohya", "diffusers", "peft"."""
    skipped: tuple[str, ...] = ()
    """Ignored keys: those that do not belong to a network, and those of adapters that were not chosen."""
    notes: tuple[str, ...] = ()
    """Sentences for the person on how the file was read: what is ignored, and what was assumed."""
    still: tuple[str, ...] = ()
    """Modules without effect in every program: sd-scripts' OFT that allows no rotation."""

    def by_module(self) -> dict[str, dict[str, torch.Tensor]]:
        """Tensors grouped by module name, keyed by the last part ("lora_up.weight", "alpha")."""
        grouped: dict[str, dict[str, torch.Tensor]] = {}
        for key, value in self.tensors.items():
            module, part = key.split(".", 1)
            grouped.setdefault(module, {})[part] = value
        return grouped


def read_lora(path: Path, check: bool = True, adapter: str = "") -> LoraFile:
    """Read a LoRA file, or a folder that peft or diffusers wrote, of any layout in `layouts.py`.

    Keys that are not understood are listed in `skipped` and `notes`. `adapter` is the one to read if the file has
    several. Raises LoraTrainError that says what the file is if it is not a LoRA; with `check` also when halves are
    missing, shapes do not fit each other or values are not finite.
    """
    if not path.exists():
        raise LoraTrainError("there is no such LoRA file.", str(path), "Check its name.")
    raw, metadata, configs, notes = _raw(path)
    try:
        read = understand(raw, metadata, adapter)
        _take_alphas(read, configs)
        modules = settle(read.modules, read.paths, read.left_out)
    except NotLora as error:
        raise LoraTrainError(f"this is {error}, not a LoRA that can be read.", str(path), error.fix) from error
    except ValueError as error:
        raise LoraTrainError(f"this file cannot be read as a LoRA: {error}.", str(path), _GIVE) from error
    tensors = {f"{name}.{part}": value for name, parts in modules.items() for part, value in parts.items()}
    skipped = [key for keys in read.left_out.keys.values() for key in keys]
    notes = (*notes, *read.left_out.sentences())
    file = LoraFile(
        path, dict(sorted(tensors.items())), metadata, read.layout, tuple(skipped), notes, tuple(read.left_out.still)
    )
    if check:
        require_sound(file.by_module(), str(path))
    return file


def adapters_of(path: Path) -> list[str]:
    """The names of peft's adapters in a file that has several; empty for most files. Raises LoraTrainError."""
    if not path.exists():
        raise LoraTrainError("there is no such LoRA file.", str(path), "Check its name.")
    return adapters_in(_raw(path)[0])


def file_metadata(path: Path) -> dict[str, str]:
    """The metadata of a safetensors file; other files have none. Raises LoraTrainError."""
    return header_metadata(read_header(path)) if holds_safetensors(path) else {}


_Raw = tuple[dict[str, torch.Tensor], dict[str, str], dict[str, dict[str, Any]], tuple[str, ...]]
"""Tensors under the keys of the file, metadata, peft's configurations by component, and notes."""


def _raw(path: Path) -> _Raw:
    if not path.is_dir():
        return _raw_file(path)
    folders = {
        part: file
        for part in dict.fromkeys(side.component for side in sides())
        if (file := _weights_in(path / part)) is not None
    }
    if folders:
        return _raw_parts(folders)
    file = _weights_in(path)
    if file is None:
        raise LoraTrainError("there is no LoRA in this folder.", str(path), _GIVE)
    return _raw_file(file)


def _raw_file(path: Path) -> _Raw:
    header = read_header(path, _GIVE) if holds_safetensors(path) else {}
    metadata = header_metadata(header)
    configs = configs_in_metadata(metadata)
    beside = path.parent / ADAPTER_CONFIG
    if path.name in WEIGHTS and beside.is_file():
        configs[""] = _config(beside)
    return read_tensors(path, _GIVE), metadata, configs, _metadata_notes(header)


def _metadata_notes(header: Mapping[str, object]) -> tuple[str, ...]:
    odd = odd_metadata(header)
    if not odd:
        return ()
    return (
        f"{len(odd)} of its metadata fields are not texts ({named(odd)}), so most programs refuse the file; "
        "`lora-train file metadata FILE --set note=repaired --overwrite` writes them as texts.",
    )


def _raw_parts(files: Mapping[str, Path]) -> _Raw:
    tensors: dict[str, torch.Tensor] = {}
    metadata: dict[str, str] = {}
    configs: dict[str, dict[str, Any]] = {}
    notes: list[str] = []
    for part, file in files.items():
        its_tensors, its_metadata, its_configs, its_notes = _raw_file(file)
        tensors |= {f"{part}.{key}": value for key, value in its_tensors.items()}
        metadata |= its_metadata
        notes += its_notes
        configs |= {part: its_configs[""]} if "" in its_configs else {}
    return tensors, metadata, configs, tuple(notes)


def _weights_in(folder: Path) -> Path | None:
    return next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)


def _config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise LoraTrainError(f"cannot read the file: {error.strerror}.", str(path)) from error
    except (ValueError, RecursionError) as error:
        raise LoraTrainError(
            "this is not JSON.", str(path), "Repair it, or remove it: alpha is then the rank."
        ) from error
    return config if isinstance(config, dict) else {}


def _take_alphas(read: Read, configs: Mapping[str, Mapping[str, Any]]) -> None:
    """Set the modules' alphas from peft's configurations; modules with 0, which has no effect in peft, become zeros.

    In files of other tools alpha 0 means the rank.
    """
    alphas = _alphas(read.modules, read.paths, configs)
    for module, alpha in alphas.items():
        parts = read.modules[module]
        parts[ALPHA] = alpha if alpha else torch.tensor(float(parts[DOWN].shape[0]))
        for name in () if alpha else parts.keys() & {UP, LORA_BIAS}:
            parts[name] = torch.zeros_like(parts[name])
    still = [module for module, alpha in alphas.items() if not alpha]
    if still:
        read.left_out.notes.append(
            f"lora_alpha is 0 for {len(still)} modules ({named(still)}), with which peft does not apply them: they "
            "have no effect here either."
        )


def _alphas(
    modules: Mapping[str, Mapping[str, torch.Tensor]],
    paths: Mapping[str, str],
    configs: Mapping[str, Mapping[str, Any]],
) -> dict[str, torch.Tensor]:
    """The alphas from peft's configurations, for modules without an alpha of their own."""
    found = {}
    for module, path in paths.items():
        config = next((configs[part] for part in components_of(module) if part in configs), configs.get(""))
        down = modules[module].get(DOWN)
        if config is None or down is None or down.ndim < 2 or ALPHA in modules[module]:
            continue
        alpha = alpha_of(config, path, down.shape[0])
        if alpha is not None:
            found[module] = torch.tensor(alpha)
    return found

"""Open a base model, whatever it is: the one place that knows all families and containers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_train.errors import LoraTrainError

if TYPE_CHECKING:
    from lora_train.models.base import BaseModel, Parts


def _sd1(parts: Parts) -> BaseModel:
    from lora_train.models.sd1 import StableDiffusion1

    return StableDiffusion1(parts)


FAMILIES: dict[str, Callable[[Parts], BaseModel]] = {"sd1": _sd1}
"""A family's name to its class."""


def recognise(path: Path) -> str:
    """The family of the base model at `path`, without loading it where that can be avoided.

    Raises LoraTrainError when there is no model that can be trained.
    """
    from lora_train.models.folder import recognise_folder
    from lora_train.models.single_file import recognise_file
    from lora_train.tensors import GIVE_ANOTHER

    if not path.exists():
        raise LoraTrainError("there is no such file or folder.", str(path), GIVE_ANOTHER)
    if path.is_dir():
        if not (path / "model_index.json").is_file():
            raise LoraTrainError("this folder is not a diffusers model (no model_index.json).", str(path), GIVE_ANOTHER)
        return recognise_folder(path)
    return recognise_file(path)


NATIVE = {"sd1": 512, "sd2": 768, "sdxl": 1024}
"""The side in pixels that each family's published models were trained at."""


def native_resolution(path: Path) -> int:
    """The side in pixels that the base model at `path` was trained at, without loading it.

    A diffusers folder says so, a file's family stands for it. Raises LoraTrainError as `recognise`.
    """
    family = recognise(path)
    try:
        side = json.loads((path / "unet" / "config.json").read_text(encoding="utf-8"))["sample_size"] * 8
        return int(side) if isinstance(side, int) else NATIVE.get(family, 512)
    except (OSError, ValueError, KeyError, TypeError):
        return NATIVE.get(family, 512)


def _none() -> list[Any]:
    return []


def open_model(path: Path, tokenizers: Callable[[], list[Any]] = _none) -> BaseModel:
    """Load the base model at `path` into CPU memory, fp32.

    `tokenizers` gives those that may serve a checkpoint which brings none. Raises LoraTrainError.
    """
    from lora_train.models.folder import load_folder_parts
    from lora_train.models.single_file import load_file_parts

    family = recognise(path)
    parts = load_folder_parts(path) if path.is_dir() else load_file_parts(path, tokenizers)
    return FAMILIES[family](parts)

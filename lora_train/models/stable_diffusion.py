"""SD 1.x, SD 2.x and SDXL: their diffusers folders and one-file checkpoints recognised and opened."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lora_train.config import RunConfig
from lora_train.errors import LoraTrainError, Problem
from lora_train.models.base import BaseModel, Look
from lora_train.models.folder import load_folder_parts, look_at_folder
from lora_train.models.prediction import Assumed, settle
from lora_train.models.sd1 import StableDiffusion1
from lora_train.models.sd2 import StableDiffusion2
from lora_train.models.sdxl import StableDiffusionXL
from lora_train.models.single_file import load_file_parts, look_at_file, require_tokenizer_for
from lora_train.models.tokenizers import TokenizerSources
from lora_train.tensors import GIVE_ANOTHER

CLASSES: dict[str, Any] = {cls.family: cls for cls in (StableDiffusion1, StableDiffusion2, StableDiffusionXL)}
"""By the family's name."""


class StableDiffusion:
    """See Opening; the last that is asked, so it says what is wrong with what nobody knows."""

    def look(self, path: Path) -> Look:
        """See Opening."""
        _require(path)
        return look_at_folder(path) if path.is_dir() else look_at_file(path)

    def refusals(self, look: Look, config: RunConfig) -> list[Problem]:
        """See Opening."""
        schedule, _ = settle(look.schedule, Assumed.by(config))
        return list(CLASSES[look.family].refusals(config, schedule))

    def require_tokenizer(self, path: Path, sources: TokenizerSources) -> None:
        """See Opening; folders bring theirs."""
        if path.is_file():
            require_tokenizer_for(path, sources)

    def open(self, path: Path, tokenizers: TokenizerSources, assumed: Assumed) -> BaseModel:
        """See Opening."""
        _require(path)
        parts = load_folder_parts(path, assumed) if path.is_dir() else load_file_parts(path, tokenizers, assumed)
        model: BaseModel = CLASSES[parts.family](parts)
        return model


def _require(path: Path) -> None:
    if path.is_dir() and not (path / "model_index.json").is_file():
        raise LoraTrainError("this folder is not a diffusers model (no model_index.json).", str(path), GIVE_ANOTHER)


OPENING = StableDiffusion()

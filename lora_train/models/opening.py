"""Open a base model of any kind: the one place that knows all families and containers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_train.config import RunConfig
from lora_train.errors import LoraTrainError, Problem

if TYPE_CHECKING:
    from lora_train.models.base import BaseModel, Look
    from lora_train.models.prediction import Assumed
    from lora_train.models.tokenizers import TokenizerSources


def _sd1() -> type[Any]:
    from lora_train.models.sd1 import StableDiffusion1

    return StableDiffusion1


def _sd2() -> type[Any]:
    from lora_train.models.sd2 import StableDiffusion2

    return StableDiffusion2


def _sdxl() -> type[Any]:
    from lora_train.models.sdxl import StableDiffusionXL

    return StableDiffusionXL


FAMILIES: dict[str, Callable[[], type[Any]]] = {"sd1": _sd1, "sd2": _sd2, "sdxl": _sdxl}
"""A family's name to its class, imported lazily."""


def look(path: Path) -> Look:
    """What can be known about the base model at `path` without loading it (a pickle has to be read for that).

    Raises LoraTrainError when there is no model that can be trained.
    """
    from lora_train.models.folder import look_at_folder
    from lora_train.models.single_file import look_at_file

    _require(path)
    return look_at_folder(path) if path.is_dir() else look_at_file(path)


def recognise(path: Path) -> str:
    """The family of the base model at `path`; see `look`."""
    return look(path).family


def native_resolution(path: Path) -> int:
    """The side in pixels that the base model at `path` was trained at; see `look`."""
    return look(path).native_resolution


def _require(path: Path) -> None:
    from lora_train.models.hub import is_hub_id
    from lora_train.tensors import GIVE_ANOTHER

    if not path.exists():
        what, fix = "there is no such file or folder.", GIVE_ANOTHER
        if is_hub_id(str(path)):
            what = "there is no such file or folder; a model of the Hugging Face hub has to be on this machine first."
            fix = (
                f"Download it (hf download {path}) and give its folder, or give another .safetensors, .ckpt or folder."
            )
        raise LoraTrainError(what, str(path), fix)
    if not path.is_dir() and not path.is_file():  # a pipe would block forever
        raise LoraTrainError("this is neither a file nor a folder.", str(path), GIVE_ANOTHER)
    if path.is_dir() and not (path / "model_index.json").is_file():
        raise LoraTrainError("this folder is not a diffusers model (no model_index.json).", str(path), GIVE_ANOTHER)


def assumed_by(config: RunConfig) -> Assumed:
    """What a run's configuration says about its base model."""
    from lora_train.models.prediction import Assumed

    return Assumed(config.model.v_parameterization, config.train.zero_terminal_snr)


def refusals(path: Path, config: RunConfig) -> list[Problem]:
    """Options of `config` that the base model at `path` does not support, each with the reason.

    Raises LoraTrainError as `look` does.
    """
    from lora_train.models.prediction import settle

    seen = look(path)
    schedule, _ = settle(seen.schedule, assumed_by(config))
    return list(FAMILIES[seen.family]().refusals(config, schedule))


def require_tokenizer(path: Path, sources: TokenizerSources) -> None:
    """Raise LoraTrainError where the base model at `path` has no tokenizer and `sources` none either."""
    from lora_train.models.single_file import require_tokenizer_for

    if path.is_file():
        require_tokenizer_for(path, sources)


def open_model(
    path: Path,
    tokenizers: TokenizerSources | None = None,
    assumed: Assumed | None = None,
    keep_dtype: bool = False,
) -> BaseModel:
    """Load the base model at `path` into CPU memory.

    `tokenizers` is where one may come from for a checkpoint without one (without `tokenizers`, nothing is
    downloaded); `assumed` is what a person says about the model. UNet and text encoders become fp32, ready to
    compute. With `keep_dtype` they stay as they are in the file, memory-mapped, for callers that then move them to a
    device and its dtype. Raises LoraTrainError.
    """
    import torch

    from lora_train.models.folder import load_folder_parts
    from lora_train.models.prediction import Assumed
    from lora_train.models.single_file import load_file_parts
    from lora_train.models.tokenizers import TokenizerSources

    _require(path)
    assumed, tokenizers = assumed or Assumed(), tokenizers or TokenizerSources()
    parts = load_folder_parts(path, assumed) if path.is_dir() else load_file_parts(path, tokenizers, assumed)
    model: BaseModel = FAMILIES[parts.family]()(parts)
    if not keep_dtype:
        model.to(torch.device("cpu"), torch.float32)
    return model

"""Captions by any transformers image-to-text model (BLIP, BLIP-2, GIT, ViT-GPT2 ...)."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_train.errors import LoraTrainError

if TYPE_CHECKING:
    from PIL import Image

MAX_NEW_TOKENS = 75
BATCH = 4
WEIGHTS = ("model.safetensors", "model.safetensors.index.json")


def transformers_captions(model: str, pictures: Iterable[Image.Image], device: str = "cpu") -> Iterator[str]:
    """One caption per picture; `model` is a folder, or the id of a model in the hub's local cache.

    Nothing is downloaded unless `LORA_TRAIN_DOWNLOAD=1`. The model is loaded at the first picture and
    freed at the end. Its weights must be safetensors. Raises LoraTrainError when it cannot be loaded.
    """
    import torch

    processor, captioner = _load(model)
    captioner.to(device).eval()
    left = iter(pictures)
    try:
        while batch := [picture.convert("RGB") for picture in islice(left, BATCH)]:
            inputs = processor(images=batch, return_tensors="pt").to(device)
            with torch.no_grad():
                tokens = captioner.generate(**inputs, max_new_tokens=MAX_NEW_TOKENS)
            for text in processor.batch_decode(tokens, skip_special_tokens=True):
                yield text.strip()
    finally:
        captioner.to("meta")
        if torch.device(device).type == "cuda":
            torch.cuda.empty_cache()


def _load(model: str) -> tuple[Any, Any]:
    import transformers

    local = os.environ.get("LORA_TRAIN_DOWNLOAD") != "1"
    # code that comes with a model is never run, nor is anybody asked about it
    options = {"local_files_only": local, "trust_remote_code": False}
    # transformers 5 renamed the class
    cls = getattr(transformers, "AutoModelForImageTextToText", None) or transformers.AutoModelForVision2Seq
    try:
        _require_safetensors(model, local)
        processor = transformers.AutoProcessor.from_pretrained(model, **options)
        cls = _captioner_class(model, options, cls)
        return processor, cls.from_pretrained(model, use_safetensors=True, **options)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise LoraTrainError(
            f"the captioner cannot be loaded ({str(error).splitlines()[0]}).",
            model,
            "Give the folder of a transformers image-to-text model with model.safetensors, "
            "or set LORA_TRAIN_DOWNLOAD=1 to allow downloading it.",
        ) from error


def _require_safetensors(model: str, local: bool) -> None:
    """Raise OSError when there are none: transformers 4.30 would load a pickle even with `use_safetensors`, and torch
    2.1 runs the code in it."""
    if not any(_is_there(model, name, local) for name in WEIGHTS):
        raise OSError("there is no model.safetensors")


def _is_there(model: str, name: str, local: bool) -> bool:
    """Whether the folder or the hub's model has this file; downloaded where that is allowed."""
    from huggingface_hub import hf_hub_download

    if Path(model).is_dir():
        return (Path(model) / name).is_file()
    with suppress(OSError, ValueError):
        hf_hub_download(model, name, local_files_only=local)
        return True
    return False


def _captioner_class(model: str, options: dict[str, Any], general: Any) -> Any:
    """The class that the model's own config names; transformers' table of such models lacks some (BLIP)."""
    import transformers

    config = transformers.AutoConfig.from_pretrained(model, **options)
    for name in getattr(config, "architectures", None) or ():
        if hasattr(transformers, name):
            return getattr(transformers, name)
    return general

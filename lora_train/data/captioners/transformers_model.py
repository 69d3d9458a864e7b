"""Captions by any transformers image-to-text model (BLIP, BLIP-2, GIT, ViT-GPT2 ...)."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

from lora_train.errors import LoraTrainError

if TYPE_CHECKING:
    from PIL import Image

MAX_NEW_TOKENS = 75
BATCH = 4


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
    # transformers 5 renamed the class
    cls = getattr(transformers, "AutoModelForImageTextToText", None) or transformers.AutoModelForVision2Seq
    try:
        processor = transformers.AutoProcessor.from_pretrained(model, local_files_only=local)
        cls = _captioner_class(model, local, cls)
        # without safetensors a pickle would be loaded, and older versions of transformers and torch run what is in it
        return processor, cls.from_pretrained(model, local_files_only=local, use_safetensors=True)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise LoraTrainError(
            f"the captioner cannot be loaded ({str(error).splitlines()[0]}).",
            model,
            "Give the folder of a transformers image-to-text model with model.safetensors, "
            "or set LORA_TRAIN_DOWNLOAD=1 to let it be loaded.",
        ) from error


def _captioner_class(model: str, local: bool, general: Any) -> Any:
    """The class that the model's own config names; transformers' table of such models lacks some (BLIP)."""
    import transformers

    config = transformers.AutoConfig.from_pretrained(model, local_files_only=local)
    for name in getattr(config, "architectures", None) or ():
        if hasattr(transformers, name):
            return getattr(transformers, name)
    return general

"""diffusers' pipelines on the small models, as witnesses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lora_train.models.opening import open_model


def pipeline_of(folder: Path) -> tuple[Any, Any]:
    """diffusers' pipeline on a folder, and ours on the same."""
    try:
        from diffusers import DiffusionPipeline, StableDiffusionPipeline, StableDiffusionXLPipeline
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"these pipelines do not import with this transformers ({error})")
    from transformers import CLIPTokenizer

    model: Any = open_model(folder)
    parts = {
        "vae": model.vae,
        "unet": model.unet,
        "text_encoder": model.text_encoder,
        "tokenizer": CLIPTokenizer.from_pretrained(folder / "tokenizer"),
        "scheduler": model.sampler(2),
    }
    pipeline: DiffusionPipeline
    if len(model.text_encoders) > 1:
        second = CLIPTokenizer.from_pretrained(folder / "tokenizer_2")
        pipeline = StableDiffusionXLPipeline(**parts, text_encoder_2=model.text_encoder_2, tokenizer_2=second)
    else:
        pipeline = StableDiffusionPipeline(
            **parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False
        )
    return pipeline, model

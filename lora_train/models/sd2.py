"""Stable Diffusion 2.x: OpenCLIP ViT-H, a UNet with linear projections; 512 pixels and noise, or 768 and v.

The text encoder has 24 layers, of which the last is never used: SD 2.x was trained on the layer before it,
through the final norm. diffusers' folders and kohya's names have 23 layers, so their last one is that layer;
clip skip counts back from there, as sd-scripts does.
"""

from __future__ import annotations

from lora_train.models.base import Parts
from lora_train.models.latent_diffusion import LatentDiffusion
from lora_train.models.prediction import EPSILON


class StableDiffusion2(LatentDiffusion):
    """The SD 2.x family."""

    family = "sd2"
    version = "sd_v2"
    architecture = "stable-diffusion-v2-512/lora"

    def __init__(self, parts: Parts) -> None:
        super().__init__(parts)
        if self.prediction_type != EPSILON:
            self.version = "sd_v2_v"
            self.architecture = "stable-diffusion-v2-768-v/lora"

"""Stable Diffusion 1.x: CLIP-L, a UNet that predicts noise (few predict v), trained at 512 pixels."""

from __future__ import annotations

from lora_train.models.base import Parts
from lora_train.models.latent_diffusion import LatentDiffusion
from lora_train.models.prediction import EPSILON


class StableDiffusion1(LatentDiffusion):
    """The SD 1.x family."""

    family = "sd1"
    version = "sd_v1"
    architecture = "stable-diffusion-v1/lora"

    def __init__(self, parts: Parts) -> None:
        super().__init__(parts)
        if self.prediction_type != EPSILON:
            self.version = "sd_v1_v"

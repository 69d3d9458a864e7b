"""Stable Diffusion 1.x: CLIP-L, a UNet that predicts noise (few predict v), trained at 512 pixels."""

from __future__ import annotations

from lora_train.models.latent_diffusion import LatentDiffusion


class StableDiffusion1(LatentDiffusion):
    """The SD 1.x family."""

    family = "sd1"

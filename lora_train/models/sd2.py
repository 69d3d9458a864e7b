"""Stable Diffusion 2.x: OpenCLIP ViT-H, a UNet with linear projections; 512 pixels and noise, or 768 and v.

The text encoder has 24 layers, of which the last is never used: SD 2.x was trained on the layer before it,
through the final norm. diffusers' folders and kohya's names have 23 layers, so their last one is that layer;
clip skip counts back from there, as sd-scripts does.
"""

from __future__ import annotations

from lora_train.models.latent_diffusion import LatentDiffusion


class StableDiffusion2(LatentDiffusion):
    """The SD 2.x family."""

    family = "sd2"

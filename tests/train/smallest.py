"""The least model that training knows: SDXL with two levels and random weights, made in memory."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import torch
from torch import nn

from lora_train.demo.files import base_folder
from lora_train.models.base import Parts
from lora_train.models.sdxl import StableDiffusionXL
from tests.models.tiny import SDXL_UNET, schedule, text_encoder


class NoVae(nn.Module):
    """Only its scale counts: the latents are there."""

    config = SimpleNamespace(scaling_factor=0.13025, latent_channels=4)


def open_tiny(prediction: str) -> StableDiffusionXL:
    """The least SDXL: two levels, the inner one with attention."""
    from diffusers import UNet2DConditionModel
    from transformers import CLIPTokenizer

    torch.manual_seed(3)
    small = {
        "block_out_channels": (32, 64),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "layers_per_block": 1,
        "cross_attention_dim": 128,
        "attention_head_dim": (1, 1),
        "transformer_layers_per_block": 1,
        "projection_class_embeddings_input_dim": 48 + 6 * 32,
    }
    encoders = [text_encoder(64, 2, "quick_gelu"), text_encoder(64, 2, "gelu", 48)]
    tokenizer = CLIPTokenizer.from_pretrained(base_folder() / "tokenizer")
    unet = UNet2DConditionModel(**SDXL_UNET | small).eval()
    return StableDiffusionXL(Parts(Path(), unet, NoVae(), encoders, [tokenizer] * 2, (None, 0), schedule(prediction)))

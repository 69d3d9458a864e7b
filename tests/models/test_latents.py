"""Pictures to latents and back, by a stand-in for the VAE whose numbers say where they come from."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from lora_train.models import latent_diffusion
from lora_train.models.base import Parts
from lora_train.models.sd1 import StableDiffusion1
from tests.models.tiny import SD1_UNET, schedule


class Vae(nn.Module):
    """Latents are the pictures' own means over 8 x 8 pixels; their spread is a tenth of that."""

    config = SimpleNamespace(scaling_factor=0.25, latent_channels=3)
    device = torch.device("cpu")

    def __init__(self) -> None:
        super().__init__()
        self.at_once: list[int] = []

    def encode(self, pixels: torch.Tensor) -> Any:
        self.at_once.append(len(pixels))
        assert pixels.dtype == torch.float32
        mean = nn.functional.avg_pool2d(pixels, 8)
        return SimpleNamespace(latent_dist=SimpleNamespace(mean=mean, std=mean / 10, var=mean / 100, logvar=mean))

    def decode(self, latents: torch.Tensor) -> Any:
        self.at_once.append(len(latents))
        return SimpleNamespace(sample=nn.functional.interpolate(latents, scale_factor=8))


@pytest.fixture(scope="module")
def model() -> StableDiffusion1:
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        unet = UNet2DConditionModel(**SD1_UNET)
    return StableDiffusion1(Parts(SimpleNamespace(), unet, Vae(), [], [], (), schedule("epsilon")))  # type: ignore[arg-type]


def test_a_posterior_has_its_mean_and_its_standard_deviation(
    model: StableDiffusion1, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = torch.randn(5, 3, 32, 16)
    expected = nn.functional.avg_pool2d(pixels, 8)
    for room, at_once in ((32 * 16 * 2, [2, 2, 1]), (32 * 16 * 3 - 1, [2, 2, 1]), (1, [1] * 5), (10**9, [5])):
        monkeypatch.setattr(latent_diffusion, "ENCODE_PIXELS", room)
        model.vae.at_once.clear()
        mean, std = model.encode_pictures(pixels)
        assert torch.allclose(mean, expected) and torch.allclose(std, expected / 10)
        assert model.vae.at_once == at_once


def test_scaling_goes_one_way_and_back(model: StableDiffusion1) -> None:
    latents = torch.randn(3, 3, 4, 2)
    assert torch.allclose(model.scale_latents(latents), latents * 0.25)
    model.vae.at_once.clear()
    pixels = model.decode_latents(model.scale_latents(latents))
    assert torch.allclose(pixels, nn.functional.interpolate(latents, scale_factor=8)) and model.vae.at_once == [1] * 3
    assert model.latent_shape(width=64, height=32) == (3, 4, 8)


def test_every_time_is_drawn_and_no_other(model: StableDiffusion1) -> None:
    times = model.draw_timesteps(20_000, torch.Generator().manual_seed(0))
    assert (int(times.min()), int(times.max())) == (0, 999) and len(set(times.tolist())) == 1000

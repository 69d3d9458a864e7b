"""The numbers that are chosen if a person sets none."""

from __future__ import annotations

from dataclasses import dataclass

DEFAULT_DIM = 16
DEFAULT_REPEATS = 10
DEFAULT_TARGET = 512
"""Longest side of a prepared picture, if no training sets it."""

SMALL_BASE = 50_000_000
"""A UNet with fewer parameters than this (Stable Diffusion 1.5's has 860 million) is a small base model: it
knows little of pictures, needs a higher rate, and distinguishes things in its convolutions."""

LARGE_BASE = 2_000_000_000
BYTES_PER_PARAMETER = 2.8
"""In bf16: the UNet's weights, text encoders, VAE, the LoRA and its optimizer, by the UNet's parameters."""
KEPT_PER_PIXEL = {True: 8500, False: 4900}
"""Bytes of activations kept per pixel of a batch, for a base as large as SDXL and for others."""
BASE_BYTES = {"fp8": 1.0, "int8": 1.0, "nf4": 0.55}
"""Bytes of a weight in the denoiser that is stored so, some of which stay as they are."""


@dataclass(frozen=True)
class Recipe:
    """The automatic choices for a size of base model."""

    rate: float
    text_share: float
    """The text encoder's rate, as a share of the general one."""
    batch: int
    convolutions: bool
    """Whether 3x3 convolutions are trained as well, with the same dimension."""
    alpha_share: float
    """alpha as a share of the dimension."""
    looks: tuple[int, int, int]
    """How often each picture is shown; minimum and maximum of the pictures shown in total."""
    preserve: float
    """The default of `TrainOptions.preserve`."""


USUAL = Recipe(
    rate=1e-4, text_share=0.5, batch=1, convolutions=False, alpha_share=0.5, looks=(100, 600, 4000), preserve=0.0
)
SMALL = Recipe(
    rate=1.5e-3, text_share=2 / 3, batch=4, convolutions=True, alpha_share=1.0, looks=(100, 1600, 4000), preserve=0.3
)

"""The numbers that are chosen where a person gives none."""

from __future__ import annotations

from dataclasses import dataclass

DEFAULT_DIM = 16
DEFAULT_REPEATS = 10
DEFAULT_TARGET = 512
"""Longest side of a prepared picture where no training says it."""

SMALL_BASE = 50_000_000
"""A UNet with fewer parameters than this (Stable Diffusion 1.5's has 860 million) is a small base: it learns from
nothing near pictures, at a higher rate, and what tells one thing from another lies in its convolutions."""

LARGE_BASE = 2_000_000_000
BYTES_PER_PARAMETER = 2.8
"""In bf16: the UNet's weights, text encoders, VAE, the LoRA and its optimizer, by the UNet's parameters."""
KEPT_PER_PIXEL = {True: 8500, False: 4900}
"""Bytes of activations kept per pixel of a batch, for a base as large as SDXL and for others."""


@dataclass(frozen=True)
class Recipe:
    """What is chosen for a size of base."""

    rate: float
    text_share: float
    """The text encoder's rate, as a share of the general one."""
    batch: int
    convolutions: bool
    """Whether 3x3 convolutions are trained as well, with the dimension of the rest."""
    alpha_share: float
    """alpha as a share of the dimension."""
    looks: tuple[int, int, int]
    """How often each picture is seen; and at least and at most how many pictures are seen in all."""
    preserve: float
    """See `TrainOptions.preserve`."""


USUAL = Recipe(
    rate=1e-4, text_share=0.5, batch=1, convolutions=False, alpha_share=0.5, looks=(100, 600, 4000), preserve=0.0
)
SMALL = Recipe(
    rate=1.5e-3, text_share=2 / 3, batch=4, convolutions=True, alpha_share=1.0, looks=(100, 1600, 4000), preserve=0.3
)

"""Parts of a model that are on the GPU only while they compute, and the VAE in tiles."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from lora_train.device import same_device

TILE = 512
"""Side of a tile in pixels."""


@contextmanager
def at_work(device: torch.device, modules: Sequence[nn.Module]) -> Iterator[None]:
    """Within the block the modules are on `device`; those that were elsewhere go back after it."""
    places = [(module, place_of(module)) for module in modules]
    away = [(module, place) for module, place in places if place is not None and not same_device(place, device)]
    try:
        for module, _ in away:
            move(module, device)
        yield
    finally:
        for module, place in away:
            move(module, place)


def place_of(module: nn.Module) -> torch.device | None:
    """Where the weights of a module are; None if it has none."""
    return next((parameter.device for parameter in module.parameters()), None)


def move(module: nn.Module, device: torch.device) -> None:
    """Move a module's weights; diffusers' own `to` warns about what it does not do."""
    nn.Module.to(module, device)


@contextmanager
def in_tiles(vae: Any, factor: int, tiled: bool = True) -> Iterator[None]:
    """Within the block a diffusers VAE computes in tiles of 512 pixels, `factor` pixels for each latent."""
    if not tiled:
        yield
        return
    vae.tile_sample_min_size, vae.tile_latent_min_size = TILE, TILE // factor
    vae.enable_tiling()
    try:
        yield
    finally:
        vae.disable_tiling()

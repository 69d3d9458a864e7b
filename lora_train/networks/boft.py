"""BOFT: W' = R W with R a product of block rotations over butterfly permutations (Liu et al. 2023, arXiv 2311.06243).

Keys as OFT's; `oft_blocks` has four dimensions (stages, blocks, size, size).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from lora_train.networks.base import MATRICES, Form, NetworkModule, require, shape_of
from lora_train.networks.oft import BLOCKS, RESCALE, load_rescale, new_rescale, rotation


def boft_delta(weight: torch.Tensor, rotated: torch.Tensor, rescale: torch.Tensor | None) -> torch.Tensor:
    """R W - W, then times `rescale`; stage i rotates blocks of channels that lie 2^i * size / 2 apart.

    `rotated` is (stages, blocks, size, size).
    """
    size, out = rotated.shape[-1], weight
    for stage, blocks in enumerate(rotated):
        stride = 2**stage * (size // 2)
        # channels (c, 2, stride) to (c, stride, 2): those of one block side by side
        mixed = out.unflatten(0, (-1, 2, stride)).transpose(1, 2).flatten(0, 2).unflatten(0, (-1, size))
        mixed = torch.einsum("kij,kj...->ki...", blocks, mixed).flatten(0, 1)
        out = mixed.unflatten(0, (-1, stride, 2)).transpose(1, 2).flatten(0, 2)
    return (out if rescale is None else rescale * out) - weight


def butterfly(dimension: int, limit: int) -> tuple[int, int]:
    """(block size, number of blocks): an even size of at most `limit`, the largest whose number is a power of 2.

    Raises ValueError when there is none.
    """
    sizes = [m for m in range(2, dimension + 1, 2) if dimension % m == 0 and (dimension // m).bit_count() == 1]
    if not sizes or min(sizes) > limit:
        least = f"at least {min(sizes)}" if sizes else "another kind"
        raise ValueError(f"{dimension} channels cannot be split for BOFT with dimension {limit}; use {least}")
    size = max(m for m in sizes if m <= limit)
    return size, dimension // size


class BoftModule(NetworkModule):
    """The blocks of all stages of one module."""

    rescale: torch.Tensor | None

    def __init__(self, blocks: torch.Tensor, alpha: float, rescale: torch.Tensor | None) -> None:
        super().__init__()
        self.oft_blocks = nn.Parameter(blocks)
        self.register_parameter(RESCALE, None if rescale is None else nn.Parameter(rescale))
        self.alpha = alpha

    def weight_delta(self, weight: torch.Tensor) -> torch.Tensor:
        rotated = rotation(self.oft_blocks, self.alpha * weight.shape[0])
        return boft_delta(weight.to(rotated.dtype), rotated, self.rescale)

    def file_tensors(self) -> dict[str, torch.Tensor]:
        """LyCORIS' keys."""
        tensors = {"alpha": torch.tensor(float(self.alpha)), BLOCKS: self.oft_blocks.detach()}
        return tensors if self.rescale is None else tensors | {RESCALE: self.rescale.detach()}


class Boft:
    """The kind "boft". `rank` is the largest block size."""

    bases = MATRICES

    def create(self, target: nn.Module, form: Form, generator: torch.Generator) -> BoftModule:
        """Every rotation starts as the identity."""
        size, count = butterfly(shape_of(target)[0], form.rank)
        return BoftModule(
            torch.zeros(count.bit_length(), count, size, size), form.constraint, new_rescale(target, form)
        )

    def load(self, target: nn.Module, tensors: Mapping[str, torch.Tensor]) -> BoftModule:
        blocks = tensors[BLOCKS].float()
        stages, count, size = blocks.shape[:3]
        fits = blocks.shape[3] == size and count * size == shape_of(target)[0]
        require(fits and 2 ** (stages - 1) <= count and size % 2 == 0, tensors, target)
        return BoftModule(blocks, float(tensors.get("alpha", 0.0)), load_rescale(target, tensors))

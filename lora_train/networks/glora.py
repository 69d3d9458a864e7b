"""GLoRA: W' = W + (alpha / rank) (W a1 a2 + b1 b2) (Chavan et al. 2023, arXiv 2306.07967; LyCORIS' keys).

LyCORIS before version 2 stored the factors in reverse (a1 is (rank, in), a2 (in, rank), and W a2 a1 + b2 b1); such
files are recognised by their shapes, and read.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from lora_train.networks.base import MATRICES, Form, NetworkModule, alpha_of, require, shape_of, uniform

KEYS = ("a1.weight", "a2.weight", "b1.weight", "b2.weight")


def glora_delta(
    weight: torch.Tensor, a1: torch.Tensor, a2: torch.Tensor, b1: torch.Tensor, b2: torch.Tensor, scale: float
) -> torch.Tensor:
    """scale * (W a1 a2 + b1 b2): a1 is (in, rank), a2 (rank, in), b1 (out, rank), b2 (rank, in[, k, k])."""
    inner = torch.einsum("oi...,ir->or...", weight, a1.flatten(1))
    changed = torch.einsum("or...,rj->oj...", inner, a2.flatten(1))
    return scale * (changed + (b1.flatten(1) @ b2.flatten(1)).reshape(weight.shape))


class GloraModule(NetworkModule):
    """The four matrices of one module."""

    up_parameters = ("a2", "b2")

    def __init__(self, factors: tuple[torch.Tensor, ...], alpha: float) -> None:
        super().__init__()
        self.a1, self.a2, self.b1, self.b2 = (nn.Parameter(factor) for factor in factors)
        self.alpha = alpha
        self.scale = alpha / self.a2.shape[0]

    def weight_delta(self, weight: torch.Tensor) -> torch.Tensor:
        return glora_delta(weight.to(self.a1.dtype), self.a1, self.a2, self.b1, self.b2, self.scale)

    def file_tensors(self) -> dict[str, torch.Tensor]:
        """LyCORIS' keys."""
        factors = (self.a1, self.a2, self.b1, self.b2)
        return {"alpha": torch.tensor(float(self.alpha)), **{n: f.detach() for n, f in zip(KEYS, factors)}}


class Glora:
    """The kind "glora"."""

    bases = MATRICES

    def create(self, target: nn.Module, form: Form, generator: torch.Generator) -> GloraModule:
        """`a2` and `b2` start at 0, as in LyCORIS."""
        out, into, *kernel = shape_of(target)
        rank, ones = form.rank, [1] * len(kernel)
        a1 = uniform((into, rank, *ones), generator)
        b1 = uniform((out, rank, *ones), generator)
        factors = (a1, torch.zeros(rank, into, *ones), b1, torch.zeros(rank, into, *kernel))
        return GloraModule(factors, form.file_alpha)

    def load(self, target: nn.Module, tensors: Mapping[str, torch.Tensor]) -> GloraModule:
        out, into, *kernel = shape_of(target)
        a1, a2, b1, b2 = (tensors[name].float() for name in KEYS)
        if a1.shape[0] != into or b1.shape[0] != out or a2.shape[0] != b2.shape[0]:
            a1, a2, b1, b2 = a2, a1, b2, b1  # the older order
        rank = a2.shape[0]
        fits = (
            tuple(a1.shape[:2]) == (into, rank)
            and tuple(a2.shape[:2]) == (rank, into)
            and tuple(b1.shape[:2]) == (out, rank)
            and b2.numel() == rank * into * torch.Size(kernel).numel()
        )
        require(fits, tensors, target)
        return GloraModule((a1, a2, b1, b2), alpha_of(tensors, rank))

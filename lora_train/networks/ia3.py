"""(IA)^3: each output channel (or input channel) times a learned factor: W' = W (1 + w) (Liu et al. 2022,
arXiv 2205.05638; LyCORIS' keys `weight` and `on_input`).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from lora_train.networks.base import MATRICES, Form, NetworkModule, require, shape_of

FACTORS, SIDE = "weight", "on_input"


def ia3_delta(weight: torch.Tensor, factors: torch.Tensor, on_input: bool) -> torch.Tensor:
    """W times the factors (channels,) on its input or output channels."""
    shape = [1] * weight.ndim
    shape[1 if on_input else 0] = -1
    return weight * factors.reshape(shape)


class Ia3Module(NetworkModule):
    """The factors of one module, less 1."""

    def __init__(self, factors: torch.Tensor, on_input: bool) -> None:
        super().__init__()
        self.factors, self.on_input = nn.Parameter(factors), on_input

    def weight_delta(self, weight: torch.Tensor) -> torch.Tensor:
        return ia3_delta(weight.to(self.factors.dtype), self.factors, self.on_input)

    def file_tensors(self) -> dict[str, torch.Tensor]:
        """LyCORIS' keys."""
        return {FACTORS: self.factors.detach(), SIDE: torch.tensor(float(self.on_input))}


class Ia3:
    """The kind "ia3"; it has no rank."""

    bases = MATRICES

    def create(self, target: nn.Module, form: Form, generator: torch.Generator) -> Ia3Module:
        """The factors of convolutions are (1, channels, 1, 1), as in LyCORIS."""
        shape = shape_of(target)
        channels = shape[1 if form.train_on_input else 0]
        return Ia3Module(torch.zeros(channels if len(shape) == 2 else (1, channels, 1, 1)), form.train_on_input)

    def load(self, target: nn.Module, tensors: Mapping[str, torch.Tensor]) -> Ia3Module:
        on_input = bool(tensors[SIDE])
        require(tensors[FACTORS].numel() == shape_of(target)[1 if on_input else 0], tensors, target)
        return Ia3Module(tensors[FACTORS].float(), on_input)

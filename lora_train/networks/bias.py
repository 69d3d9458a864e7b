"""A difference of the bias (`diff_b`) beside a network that changes the weight, as some tools write it."""

from __future__ import annotations

import torch
from torch import nn

from lora_train.networks.base import Drop, NetworkModule
from lora_train.networks.full import BIAS


class BiasModule(NetworkModule):
    """Another network, with a difference of the base's bias."""

    def __init__(self, inner: NetworkModule, diff_b: torch.Tensor) -> None:
        super().__init__()
        self.inner, self.diff_b = inner, nn.Parameter(diff_b)
        self.up_parameters = tuple(f"inner.{name}" for name in inner.up_parameters)

    def weight_delta(self, weight: torch.Tensor) -> torch.Tensor:
        return self.inner.weight_delta(weight)

    def bias_delta(self) -> torch.Tensor | None:
        return self.diff_b

    def output_delta(self, base: nn.Module, x: torch.Tensor, drop: Drop | None = None) -> torch.Tensor:
        """The dropout is the inner network's."""
        delta = self.inner.output_delta(base, x, drop)
        return delta + self.diff_b.to(delta.dtype).view(-1, *[1] * (2 if isinstance(base, nn.Conv2d) else 0))

    def file_tensors(self) -> dict[str, torch.Tensor]:
        return {**self.inner.file_tensors(), BIAS: self.diff_b.detach()}

    def shrink(self, ratio: float) -> None:
        self.inner.shrink(ratio)

    def cut(self, rank: int) -> None:
        self.inner.cut(rank)

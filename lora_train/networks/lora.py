"""LoRA: W' = W + (alpha / rank) up down (Hu et al. 2021, arXiv 2106.09685), Linear and Conv2d.

For a k x k convolution `down` is k x k into `rank` channels and `up` is 1 x 1 (kohya's form).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import nn

from lora_train.networks.base import NetworkModule


def lora_delta(down: torch.Tensor, up: torch.Tensor, scale: float) -> torch.Tensor:
    """scale * up down, in the base weight's shape: (out, in) or (out, in, k, k).

    `down` is (rank, in) or (rank, in, k, k); `up` is (out, rank) or (out, rank, 1, 1).
    """
    flat = up.flatten(1) @ down.flatten(1)
    return scale * flat.reshape(up.shape[0], *down.shape[1:])


class LoraModule(NetworkModule):
    """The two matrices beside one module; `scale` is alpha / rank."""

    def __init__(self, target: nn.Module, down: torch.Tensor, up: torch.Tensor, alpha: float) -> None:
        super().__init__()
        self.down = nn.Parameter(down)
        self.up = nn.Parameter(up)
        self.alpha = alpha
        self.scale = alpha / down.shape[0]
        self._conv = (
            {"stride": target.stride, "padding": target.padding, "dilation": target.dilation}
            if isinstance(target, nn.Conv2d)
            else None
        )

    def output_delta(self, x: torch.Tensor) -> torch.Tensor:
        """See NetworkModule; two small products instead of one large weight."""
        if torch.is_autocast_enabled() or x.dtype == self.down.dtype:
            down, up = self.down, self.up
        else:
            down, up = self.down.to(x.dtype), self.up.to(x.dtype)
        if self._conv is None:
            return F.linear(F.linear(x, down), up) * self.scale
        return F.conv2d(F.conv2d(x, down, **self._conv), up) * self.scale  # type: ignore[arg-type]

    def weight_delta(self, weight: torch.Tensor) -> torch.Tensor:
        """See NetworkModule."""
        return lora_delta(self.down.float(), self.up.float(), self.scale).reshape(weight.shape)

    def file_tensors(self) -> dict[str, torch.Tensor]:
        """See NetworkModule: kohya's keys."""
        return {
            "alpha": torch.tensor(float(self.alpha)),
            "lora_down.weight": self.down.detach(),
            "lora_up.weight": self.up.detach(),
        }


class Lora:
    """The kind "lora"."""

    name = "lora"

    def recognises(self, keys: frozenset[str]) -> bool:
        """See NetworkKind."""
        return {"lora_down.weight", "lora_up.weight"} <= keys <= {"lora_down.weight", "lora_up.weight", "alpha"}

    def create(self, target: nn.Module, rank: int, alpha: float, generator: torch.Generator) -> LoraModule:
        """See NetworkKind. `down` is Kaiming-uniform with a = sqrt(5), as kohya's and peft's; `up` is 0."""
        weight = target.weight
        assert isinstance(weight, torch.Tensor)
        down = torch.empty(rank, *weight.shape[1:])
        bound = 1 / math.sqrt(down[0].numel())  # what kaiming_uniform_(a=sqrt(5)) comes to
        down.uniform_(-bound, bound, generator=generator)
        up = torch.zeros(weight.shape[0], rank, *[1] * (weight.ndim - 2))
        return LoraModule(target, down, up, alpha)

    def load(self, target: nn.Module, tensors: Mapping[str, torch.Tensor]) -> LoraModule:
        """See NetworkKind; a file without alpha means alpha = rank."""
        down, up = tensors["lora_down.weight"].float(), tensors["lora_up.weight"].float()
        weight = target.weight
        assert isinstance(weight, torch.Tensor)
        if weight.ndim == 4 and down.ndim == 2:  # other tools write 1x1 convolutions as matrices
            down, up = down[:, :, None, None], up[:, :, None, None]
        rank = down.shape[0]
        fits = (
            down.ndim == weight.ndim == up.ndim
            and down.shape[1:] == weight.shape[1:]
            and up.shape[:2] == (weight.shape[0], rank)
            and up[0, 0].numel() == 1
        )
        if not fits:
            raise ValueError(f"{tuple(up.shape)} x {tuple(down.shape)} does not fit {tuple(weight.shape)}")
        alpha = float(tensors["alpha"]) if "alpha" in tensors else float(rank)
        return LoraModule(target, down, up, alpha)

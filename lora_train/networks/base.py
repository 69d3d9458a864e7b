"""What every kind of network offers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import nn


class NetworkModule(nn.Module):
    """The trainable part beside one Linear or Conv2d of the base."""

    def output_delta(self, x: torch.Tensor) -> torch.Tensor:
        """What is added to the base module's output for its input `x`, at strength 1."""
        raise NotImplementedError

    def weight_delta(self, weight: torch.Tensor) -> torch.Tensor:
        """What is added to the base module's `weight` at strength 1, in its shape, fp32."""
        raise NotImplementedError

    def file_tensors(self) -> dict[str, torch.Tensor]:
        """The tensors as files have them, by the key's last part ("lora_up.weight", "alpha")."""
        raise NotImplementedError


class NetworkKind(Protocol):
    """A kind of network: how it is made, and how it is known from a file's keys."""

    name: str

    def recognises(self, keys: frozenset[str]) -> bool:
        """Whether the last parts of one module's keys are of this kind."""
        ...

    def create(self, target: nn.Module, rank: int, alpha: float, generator: torch.Generator) -> NetworkModule:
        """A new network for `target`, whose delta is zero."""
        ...

    def load(self, target: nn.Module, tensors: Mapping[str, torch.Tensor]) -> NetworkModule:
        """A network for `target` from a file's tensors. Raises ValueError when shapes do not fit."""
        ...

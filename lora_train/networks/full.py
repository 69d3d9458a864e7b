"""Full differences: W' = W + diff, b' = b + diff_b (LyCORIS' keys; "native" fine-tunes are stored like this, too)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from lora_train.networks.base import MATRICES, NORMS, Form, NetworkModule, require, shape_of

WEIGHT, BIAS = "diff", "diff_b"


class FullModule(NetworkModule):
    """The differences themselves."""

    def __init__(self, diff: torch.Tensor, diff_b: torch.Tensor | None, keys: tuple[str, str] = (WEIGHT, BIAS)) -> None:
        super().__init__()
        self.diff = nn.Parameter(diff)
        self.diff_b = None if diff_b is None else nn.Parameter(diff_b)
        self._keys = keys

    def weight_delta(self, weight: torch.Tensor) -> torch.Tensor:
        return self.diff

    def bias_delta(self) -> torch.Tensor | None:
        return self.diff_b

    def file_tensors(self) -> dict[str, torch.Tensor]:
        tensors = {self._keys[0]: self.diff.detach()}
        return tensors if self.diff_b is None else tensors | {self._keys[1]: self.diff_b.detach()}

    @torch.no_grad()
    def shrink(self, ratio: float) -> None:
        self.diff.mul_(ratio)


class Full:
    """The kind "full"; it has no rank."""

    bases = MATRICES + NORMS
    keys = (WEIGHT, BIAS)

    def create(self, target: nn.Module, form: Form, generator: torch.Generator) -> FullModule:
        bias = torch.zeros(shape_of(target)[0]) if getattr(target, "bias", None) is not None else None
        return FullModule(torch.zeros(shape_of(target)), bias, self.keys)

    def load(self, target: nn.Module, tensors: Mapping[str, torch.Tensor]) -> FullModule:
        shape = shape_of(target)
        diff = tensors[self.keys[0]].float() if self.keys[0] in tensors else torch.zeros(shape)
        require(diff.numel() == torch.Size(shape).numel(), tensors, target)
        return FullModule(diff.reshape(shape), load_bias(target, tensors, self.keys[1]), self.keys)


def load_bias(target: nn.Module, tensors: Mapping[str, torch.Tensor], key: str) -> torch.Tensor | None:
    """A file's difference of the bias, for a target without one too. Raises ValueError when it does not fit."""
    if key not in tensors:
        return None
    if tensors[key].numel() != shape_of(target)[0]:
        raise ValueError(f"{key} {tuple(tensors[key].shape)} does not fit the module's bias")
    return tensors[key].float().flatten()

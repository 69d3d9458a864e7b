"""DoRA: W' = m (W + D) / ||W + D||, with D the delta of another network (Liu et al. 2024, arXiv 2402.09353).

The norm is taken over each input column (1, in[, 1, 1]), which is what AUTOMATIC1111's and Forge's Lora code reads,
or over each output row (out, 1[, 1, 1]): the paper's, peft's and LyCORIS' default ("wd_on_output"). In a file
the shape of `dora_scale` distinguishes them. As in the paper (4.3) and peft, no gradient goes through the norm.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from lora_train.networks.base import NetworkModule, require, shape_of, weight_of

KEY = "dora_scale"


def dora_norm(weight: torch.Tensor, on_output: bool) -> torch.Tensor:
    """Norms of the rows (out, 1[, 1, 1]) or columns (1, in[, 1, 1]) of a weight."""
    kept = 0 if on_output else 1
    return torch.linalg.vector_norm(weight, dim=[d for d in range(weight.ndim) if d != kept], keepdim=True)


def dora_delta(weight: torch.Tensor, delta: torch.Tensor, scale: torch.Tensor, on_output: bool) -> torch.Tensor:
    """scale (W + D) / ||W + D|| - W."""
    merged = weight + delta
    norm = dora_norm(merged.detach(), on_output) + torch.finfo(merged.dtype).eps
    return scale * (merged / norm) - weight


class DoraModule(NetworkModule):
    """Another network, with the magnitudes of the resulting weight."""

    def __init__(self, inner: NetworkModule, scale: torch.Tensor, on_output: bool) -> None:
        super().__init__()
        self.inner, self.dora_scale, self.on_output = inner, nn.Parameter(scale), on_output
        self.up_parameters = tuple(f"inner.{name}" for name in inner.up_parameters)

    def weight_delta(self, weight: torch.Tensor) -> torch.Tensor:
        delta = self.inner.weight_delta(weight)
        return dora_delta(weight.to(delta.dtype), delta, self.dora_scale, self.on_output)

    def file_tensors(self) -> dict[str, torch.Tensor]:
        """The inner network's, and LyCORIS' `dora_scale`."""
        return {**self.inner.file_tensors(), KEY: self.dora_scale.detach()}

    def cut(self, rank: int) -> None:
        self.inner.cut(rank)


def new_dora(inner: NetworkModule, target: nn.Module, on_output: bool) -> DoraModule:
    """DoRA around a new network, with the magnitudes of the base's weight."""
    return DoraModule(inner, dora_norm(weight_of(target), on_output), on_output)


def load_dora(inner: NetworkModule, target: nn.Module, tensors: Mapping[str, torch.Tensor]) -> DoraModule:
    """DoRA from a file. A flat `dora_scale` is peft's, by rows. Raises ValueError when it does not fit."""
    shape, scale = shape_of(target), tensors[KEY].float()
    ones = (1,) * (len(shape) - 2)
    if scale.ndim == 1:
        scale = scale.reshape(-1, 1, *ones)
    rows, columns = (shape[0], 1, *ones), (1, shape[1], *ones)
    require(tuple(scale.shape) in (rows, columns), tensors, target)
    return DoraModule(inner, scale, tuple(scale.shape) == rows)

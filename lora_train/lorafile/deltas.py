"""The delta that a module of a file adds to a weight of the base, for every kind of network."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import nn

from lora_train.networks.registry import load_network

_STAND_INS: dict[int, Callable[..., nn.Module]] = {
    1: lambda n: nn.LayerNorm(n, device="meta"),
    2: lambda out, into: nn.Linear(into, out, device="meta"),
    4: lambda out, into, *kernel: nn.Conv2d(into, out, kernel, device="meta"),
}
"""A weight's number of dimensions to a module of its shape, without memory."""


def deltas_for(weight: torch.Tensor, parts: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The deltas at strength 1 of `weight` (fp32, its shape), and of the bias if the file has one.

    Raises ValueError when the kind is unknown or does not fit.
    """
    if weight.ndim not in _STAND_INS:
        raise ValueError(f"no network fits a weight of shape {tuple(weight.shape)}")
    network = load_network(_STAND_INS[weight.ndim](*weight.shape), parts)
    with torch.no_grad():
        return network.weight_delta(weight.float()), network.bias_delta()

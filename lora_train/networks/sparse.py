"""A sparse difference beside a network, as LyCORIS' extraction writes it (`use_sparse_bias`): the largest entries
that the low rank lacks. Keys `bias_indices` (2, n), `bias_values` (n,), `bias_size` (out, in * k * k).

As in AUTOMATIC1111's WebUI and LyCORIS, alpha / rank scales it with the rest, and DoRA's norm includes it.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from lora_train.networks.base import NetworkModule, require, shape_of

INDICES, VALUES, SIZE = KEYS = ("bias_indices", "bias_values", "bias_size")


def dense(tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """The matrix given by a file's three parts, fp32. Raises ValueError when they are not a matrix."""
    indices, values = tensors[INDICES].long(), tensors[VALUES].float().flatten()
    size = [int(side) for side in tensors[SIZE].flatten()]
    if (
        len(size) != 2
        or tuple(indices.shape) != (2, len(values))
        or not all(0 < side < 1 << 20 for side in size)
        or (len(values) and (bool((indices < 0).any()) or bool((indices.amax(1) >= torch.tensor(size)).any())))
    ):
        raise ValueError(f"{INDICES}, {VALUES} and {SIZE} do not make a sparse matrix")
    out = torch.zeros(size)
    out.index_put_((indices[0], indices[1]), values, accumulate=True)
    return out


class SparseModule(NetworkModule):
    """Another network, and a sparse matrix that is added to its delta; it is not trained."""

    extra: torch.Tensor

    def __init__(self, inner: NetworkModule, extra: torch.Tensor, parts: Mapping[str, torch.Tensor]) -> None:
        super().__init__()
        self.inner = inner
        self.register_buffer("extra", extra)
        self._parts = {name: parts[name] for name in KEYS}
        self.up_parameters = tuple(f"inner.{name}" for name in inner.up_parameters)

    def weight_delta(self, weight: torch.Tensor) -> torch.Tensor:
        return self.inner.weight_delta(weight) + self.extra.reshape(weight.shape)

    def file_tensors(self) -> dict[str, torch.Tensor]:
        """The inner network's, and the three parts as they were read."""
        return {**self.inner.file_tensors(), **self._parts}

    def cut(self, rank: int) -> None:
        self.inner.cut(rank)


def load_sparse(inner: NetworkModule, target: nn.Module, tensors: Mapping[str, torch.Tensor]) -> SparseModule:
    """The network with the sparse part of a file. Raises ValueError when that does not fit."""
    extra = dense(tensors)
    require(extra.numel() == torch.Size(shape_of(target)).numel(), tensors, target)
    scale = getattr(inner, "scale", 1.0)
    return SparseModule(inner, extra * scale, tensors)

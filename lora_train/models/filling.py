"""Models from existing weights: built without memory of their own, then given the weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

import torch
from torch import nn

Model = TypeVar("Model", bound=nn.Module)


def fill(make: Callable[[], Model], weights: Mapping[str, torch.Tensor]) -> tuple[Model, list[str]]:
    """The model that `make` builds, with `weights` as its parameters; and the names it lacks.

    Nothing is copied: the parameters are the given tensors, memory-mapped ones included, in their own
    dtype, except 8-bit floats, in which nothing can be computed or merged. Raises RuntimeError where
    shapes differ.
    """
    with torch.device("meta"):
        model = make()
    readable = {name: _computable(value) for name, value in weights.items()}
    missing, _ = model.load_state_dict(readable, strict=False, assign=True)
    return model, [name for name in missing if not _constant(model, name)] + _constants(model)


def _computable(value: torch.Tensor) -> torch.Tensor:
    """8-bit floats as fp16, which holds every value of e4m3 and e5m2."""
    return value.half() if value.is_floating_point() and value.element_size() == 1 else value


def _constant(model: nn.Module, name: str) -> bool:
    return name.endswith("position_ids")


def _constants(model: nn.Module) -> list[str]:
    """Compute the buffers that are not weights. Returns those that are unknown."""
    unknown = []
    for name, buffer in list(model.named_buffers()):
        if not buffer.is_meta:
            continue
        owner, _, last = name.rpartition(".")
        if last == "position_ids":
            model.get_submodule(owner).register_buffer(last, torch.arange(buffer.shape[-1]).expand(buffer.shape), False)
        else:
            unknown.append(name)
    return unknown

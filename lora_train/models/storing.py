"""The frozen base stored in 8 or 4 bits: each layer turns its weight into the computing precision while it runs.

Nothing is trained there, so it only costs accuracy and time. Each output channel has a scale (nf4: 64 weights).
The backward pass keeps the stored weight and decodes it again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import nn

from lora_train.errors import LoraTrainError
from lora_train.models.base import BaseModel
from lora_train.records.families import FAMILIES

Stored = tuple[torch.Tensor, torch.Tensor]
"""Integers, and scales."""


@dataclass(frozen=True)
class Form:
    """A way to store a weight (out, n)."""

    encode: Callable[[torch.Tensor], Stored]
    """An fp32 weight to integers and scales."""
    decode: Callable[[torch.Tensor, torch.Tensor, torch.dtype], torch.Tensor]
    """Back to the weight in a precision, flat or in rows."""
    limit: float
    """A layer that loses a larger share of its norm stays as it is. Normally distributed weights lose 0.03 in fp8,
    0.01 in int8 and 0.1 in nf4."""
    bits: float


def _fp8(weight: torch.Tensor) -> Stored:
    """float8_e4m3fn, whose largest number is 448. A power of two as scale is exact in every precision."""
    highest = weight.abs().amax(1, keepdim=True).clamp(min=1e-6)
    scale = torch.exp2(torch.ceil(torch.log2(highest / 448)))
    return (weight / scale).clamp(-448, 448).to(torch.float8_e4m3fn).view(torch.uint8), scale


def _from_fp8(stored: torch.Tensor, scale: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return stored.view(torch.float8_e4m3fn).to(dtype) * scale.to(dtype)


def _int8(weight: torch.Tensor) -> Stored:
    """Whole numbers up to 127; scales are rounded to bf16, which other precisions hold exactly."""
    scale = (weight.abs().amax(1, keepdim=True).clamp(min=1e-6) / 127).bfloat16().float()
    return (weight / scale).round().clamp(-127, 127).to(torch.int8), scale


def _from_int8(stored: torch.Tensor, scale: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return stored.to(dtype) * scale.to(dtype)


BLOCK = 64
NF4 = (-1.0, -0.69619280, -0.52507305, -0.39491749, -0.28444138, -0.18477343, -0.09105004, 0.0)
NF4 += (0.07958030, 0.16093020, 0.24611230, 0.33791524, 0.44070983, 0.56261700, 0.72295684, 1.0)
"""The quantiles of the normal distribution of QLoRA's NormalFloat (Dettmers et al. 2023, arXiv 2305.14314)."""


def _nf4(weight: torch.Tensor) -> Stored:
    """Two weights in a byte, a scale for 64."""
    rows = weight.reshape(-1, BLOCK)
    scale = rows.abs().amax(1, keepdim=True).clamp(min=1e-6).bfloat16()
    table = torch.tensor(NF4, device=weight.device)
    places = torch.bucketize(rows / scale.float(), (table[1:] + table[:-1]) / 2).to(torch.uint8)
    return (places[:, ::2] << 4 | places[:, 1::2]).contiguous(), scale


def _from_nf4(stored: torch.Tensor, scale: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    table = torch.tensor(NF4, device=stored.device, dtype=dtype)
    pairs = torch.stack([table.repeat_interleave(16), table.repeat(16)], dim=1)  # of a byte's two halves
    return pairs[stored.int()].flatten(1) * scale.to(dtype)


FORMS = {
    "fp8": Form(_fp8, _from_fp8, 0.05, 8),
    "int8": Form(_int8, _from_int8, 0.05, 8),
    "nf4": Form(_nf4, _from_nf4, 0.2, 4.25),
}
"""By the name in `train.base_precision`."""
FULL = "full"
SMALLEST = 4096
"""Layers with fewer weights stay as they are."""


class _InStore(nn.Module):
    """A layer whose weight is stored; made from an existing one, which keeps its hooks."""

    stored: torch.Tensor
    scale: torch.Tensor
    form: Form
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def weight(self) -> torch.Tensor:
        """The weight as the layer computes with it."""
        return self.form.decode(self.stored, self.scale, self.dtype).view(self.shape)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return cast(torch.Tensor, _Product.apply(x.to(self.dtype), self))  # type: ignore[no-untyped-call]

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        """Scales change their device, never their precision."""
        scale = self.scale
        super()._apply(fn, recurse)
        self.scale = scale.to(self.stored.device)
        return self


class StoredLinear(_InStore, nn.Linear):
    """See _InStore."""

    def product(self, x: torch.Tensor) -> torch.Tensor:
        """The layer's output for `x`."""
        return F.linear(x, self.weight, self.bias)

    def gradient(self, grad: torch.Tensor, shape: Any) -> torch.Tensor:
        """The gradient of an input of that shape."""
        return grad @ self.weight


class StoredConv2d(_InStore, nn.Conv2d):
    """See _InStore."""

    def product(self, x: torch.Tensor) -> torch.Tensor:
        """The layer's output for `x`."""
        return F.conv2d(x, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)

    def gradient(self, grad: torch.Tensor, shape: Any) -> torch.Tensor:
        """The gradient of an input of that shape."""
        geometry = (self.stride, self.padding, self.dilation, self.groups)
        return torch.nn.grad.conv2d_input(shape, self.weight, grad, *geometry)  # type: ignore[arg-type]


class _Product(torch.autograd.Function):
    """A stored layer's output; nothing is kept for the backward pass, where the weight is decoded again."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, layer: StoredLinear | StoredConv2d) -> torch.Tensor:
        ctx.layer, ctx.shape = layer, x.shape
        return layer.product(x)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        return ctx.layer.gradient(grads[0], ctx.shape), None


_CLASSES: dict[type[nn.Module], type[_InStore]] = {nn.Linear: StoredLinear, nn.Conv2d: StoredConv2d}


def store_base(model: BaseModel, how: str, dtype: torch.dtype, device: torch.device | None = None) -> list[str]:
    """Store the weights of the denoiser's blocks as `how`, a name of FORMS, on `device`; they compute in `dtype`.

    Norms, embeddings, time embedding, first and last layer stay as they are, and so do layers that would lose too much.
    Returns notes for the person. Raises LoraTrainError where this torch has no such numbers.
    """
    if how in ("auto", FULL):
        return []
    form = FORMS[how]
    if how == "fp8" and not hasattr(torch, "float8_e4m3fn"):
        raise LoraTrainError("this torch has no fp8.", "train.base_precision", "Choose int8, or update torch.")
    layers = _storable(model)
    worse = [name for name, layer in layers.items() if not _store(layer, form, dtype, device)]
    notes = [f"The base model's weights are stored in {how} and computed with in {str(dtype).rpartition('.')[2]}."]
    if worse:
        notes.append(f"{len(worse)} of its {len(layers)} layers would lose too much in {how} and stay as they are.")
    return notes


def _storable(model: BaseModel) -> dict[str, nn.Module]:
    """The large Linear and Conv2d layers in the denoiser's blocks, by their names in files."""
    prefix = FAMILIES[model.family].denoiser.prefix
    root = model.roots()[prefix]
    found = {}
    for name, place in model.module_names(convolutions=True).items():
        its, path = place.split(":", 1)
        layer = root.get_submodule(path) if its == prefix else None
        if type(layer) not in _CLASSES or "time_emb" in path:
            continue
        count = layer.weight.numel()  # type: ignore[union-attr, operator]
        if count >= SMALLEST and count % BLOCK == 0 and getattr(layer, "padding_mode", "zeros") == "zeros":
            found[name] = cast(nn.Module, layer)
    return found


@torch.no_grad()
def _store(layer: Any, form: Form, dtype: torch.dtype, device: torch.device | None) -> bool:
    """Store one layer's weight; False where it would lose too much."""
    weight = layer.weight.detach().to(device or layer.weight.device, torch.float32)
    rows = weight.flatten(1)
    stored, scale = form.encode(rows)
    if not weight.is_meta:
        lost = torch.linalg.vector_norm(form.decode(stored, scale, torch.float32).view_as(rows) - rows)
        if not bool(lost <= form.limit * torch.linalg.vector_norm(rows)):
            return False
    del layer._parameters["weight"]
    layer.__class__ = _CLASSES[type(layer)]
    layer.register_buffer("stored", stored)
    layer.register_buffer("scale", scale)
    layer.form, layer.shape, layer.dtype = form, tuple(weight.shape), dtype
    return True

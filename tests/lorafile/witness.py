"""What a LoRA does to a weight, written apart from the package: alpha / rank, up times down."""

from __future__ import annotations

from collections.abc import Mapping

import torch


def deltas(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Every module's delta (out, in * k * k) in fp64, from kohya's keys."""
    out = {}
    for key, down in tensors.items():
        if not key.endswith(".lora_down.weight"):
            continue
        name = key.removesuffix(".lora_down.weight")
        up, rank = tensors[f"{name}.lora_up.weight"].double(), down.shape[0]
        alpha = float(tensors.get(f"{name}.alpha", torch.tensor(float(rank))))
        out[name] = torch.einsum("or,rn->on", up.reshape(-1, rank), down.double().reshape(rank, -1)) * alpha / rank
    return out


def apart(a: Mapping[str, torch.Tensor], b: Mapping[str, torch.Tensor]) -> float:
    """The largest relative difference of two sets of deltas."""
    assert a.keys() == b.keys() and a
    return max(float((a[name] - b[name]).norm() / b[name].norm()) for name in a)

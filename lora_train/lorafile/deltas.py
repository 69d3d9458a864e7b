"""What a module of a file adds to a weight of the base."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from lora_train.lorafile.factors import factors_of, has_factors


def delta_for(weight: torch.Tensor, parts: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """The delta at strength 1 in the weight's shape, fp32. Raises ValueError when it does not fit."""
    if not has_factors(parts):
        raise ValueError(f"{', '.join(sorted(parts))}: only LoRA can be merged so far")
    delta = factors_of(parts).delta()
    if delta.shape[0] != weight.shape[0] or delta.numel() != weight.numel():
        raise ValueError(f"{tuple(delta.shape)} does not fit {tuple(weight.shape)}")
    return delta.reshape(weight.shape)

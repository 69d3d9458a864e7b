"""Optimizers by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


def _adamw(groups: list[dict[str, Any]], weight_decay: float) -> torch.optim.Optimizer:
    on_gpu = groups[0]["params"][0].device.type == "cuda"
    return torch.optim.AdamW(groups, weight_decay=weight_decay, fused=True if on_gpu else None)


OPTIMIZERS: dict[str, Callable[[list[dict[str, Any]], float], torch.optim.Optimizer]] = {"adamw": _adamw}
"""A name to a function of parameter groups and weight decay."""

"""Learning-rate schedules: functions from progress (0 to 1, after the warm-up) to a factor."""

from __future__ import annotations

import math
from collections.abc import Callable

SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda progress: 1.0,
    "linear": lambda progress: 1.0 - progress,
    "cosine": lambda progress: 0.5 * (1.0 + math.cos(math.pi * progress)),
}


def lr_factor(name: str, step: int, total: int, warmup: int) -> float:
    """The factor on all learning rates at `step` (from 0) of `total`, rising linearly over `warmup`."""
    if step < warmup:
        return (step + 1) / warmup
    return SCHEDULES[name]((step - warmup) / max(1, total - warmup))

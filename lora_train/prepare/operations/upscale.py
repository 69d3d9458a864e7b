"""Twice the size, by the host's upscaler."""

from __future__ import annotations

from lora_train.prepare.base import Plan

FACTOR = 2


def wanted(size: tuple[int, int], plan: Plan) -> bool:
    """Whether a view of this size is under the target."""
    return max(size) < plan.target

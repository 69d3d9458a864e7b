"""Differences of the weight and bias of LayerNorm and GroupNorm (LyCORIS' `train_norm`: `w_norm`, `b_norm`)."""

from __future__ import annotations

from lora_train.networks.base import NORMS
from lora_train.networks.full import Full


class Norm(Full):
    """The kind "norm"; it has no rank."""

    bases = NORMS
    keys = ("w_norm", "b_norm")

"""Losses at every position, before mask, weights and mean; see `config.training_methods.LOSSES` for the signature.

p is the prediction, y the target.
"""

from __future__ import annotations

import math

import torch

from lora_train.config import RunConfig
from lora_train.config.training_methods import HUBER_SCHEDULES
from lora_train.models.base import BaseModel


def squared(predicted: torch.Tensor, target: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """(p - y)^2, which needs neither time nor model."""
    return (predicted - target) ** 2


def l2(
    predicted: torch.Tensor, target: torch.Tensor, t: torch.Tensor, model: BaseModel, config: RunConfig
) -> torch.Tensor:
    """(p - y)^2."""
    return squared(predicted, target, t)


def l1(
    predicted: torch.Tensor, target: torch.Tensor, t: torch.Tensor, model: BaseModel, config: RunConfig
) -> torch.Tensor:
    """|p - y|."""
    return (predicted - target).abs()


def huber(
    predicted: torch.Tensor, target: torch.Tensor, t: torch.Tensor, model: BaseModel, config: RunConfig
) -> torch.Tensor:
    """2 c (sqrt((p - y)^2 + c^2) - c), about (p - y)^2 near 0 (Khrapov et al. 2024, arXiv 2403.16728; sd-scripts)."""
    c = _threshold(predicted, t, model, config)
    return 2 * c * (((predicted - target) ** 2 + c**2).sqrt() - c)


def smooth_l1(
    predicted: torch.Tensor, target: torch.Tensor, t: torch.Tensor, model: BaseModel, config: RunConfig
) -> torch.Tensor:
    """2 (sqrt((p - y)^2 + c^2) - c), about 2 |p - y| far from 0 (sd-scripts)."""
    c = _threshold(predicted, t, model, config)
    return 2 * (((predicted - target) ** 2 + c**2).sqrt() - c)


def _threshold(like: torch.Tensor, t: torch.Tensor, model: BaseModel, config: RunConfig) -> torch.Tensor:
    c: torch.Tensor = HUBER_SCHEDULES.of(config)(t, model, config)
    return c.reshape(-1, *[1] * (like.ndim - 1)).to(like.dtype)


def constant_threshold(t: torch.Tensor, model: BaseModel, config: RunConfig) -> torch.Tensor:
    """scale * c."""
    return torch.full((len(t),), config.train.huber_c * config.train.huber_scale, device=t.device)


def exponential_threshold(t: torch.Tensor, model: BaseModel, config: RunConfig) -> torch.Tensor:
    """scale * c^(t / T), with T training timesteps."""
    return torch.exp(t * (math.log(config.train.huber_c) / model.training_times)) * config.train.huber_scale


def snr_threshold(t: torch.Tensor, model: BaseModel, config: RunConfig) -> torch.Tensor:
    """(1 - c) / (1 + sigma)^2 + c, with sigma = SNR^(-1/2)."""
    c = config.train.huber_c
    return (1 - c) / (1 + model.snr(t) ** -0.5) ** 2 + c

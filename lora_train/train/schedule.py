"""Learning-rate schedules; see `config.training_methods.SCHEDULES` for the signature. No torch.

p is the progress. All but the constant one end at the minimum rate, a share of the learning rate, by default 0.
"""

from __future__ import annotations

import math

from lora_train.config import RunConfig
from lora_train.config.training_methods import OPTIMIZERS, SCHEDULES


def lr_factor(config: RunConfig, step: int) -> float:
    """The factor on all learning rates at `step` (from 0): rising linearly in the warm-up, then the schedule's.

    An optimizer with a schedule of its own gets the full rate after the warm-up.
    """
    total, warmup = config.train.max_train_steps, config.train.lr_warmup_steps
    assert total and warmup is not None
    if step < warmup:
        return (step + 1) / warmup
    if any(optimizer.own_schedule for optimizer in OPTIMIZERS.active(config)):
        return 1.0
    return float(SCHEDULES.of(config)((step - warmup) / max(1, total - warmup), config))


def constant(progress: float, config: RunConfig) -> float:
    """1."""
    return 1.0


def linear(progress: float, config: RunConfig) -> float:
    """1 - p."""
    return _above_least(1.0 - progress, config)


def cosine(progress: float, config: RunConfig) -> float:
    """(1 + cos(pi p)) / 2 (Loshchilov and Hutter 2017, arXiv 1608.03983, without restarts)."""
    return _above_least(0.5 * (1.0 + math.cos(math.pi * progress)), config)


def cosine_with_restarts(progress: float, config: RunConfig) -> float:
    """(1 + cos(pi (n p mod 1))) / 2 for n cycles (the same paper, cycles of one length; transformers)."""
    if progress >= 1:
        return _above_least(0.0, config)
    place = max(1, config.train.lr_scheduler_num_cycles) * progress % 1.0
    return _above_least(0.5 * (1.0 + math.cos(math.pi * place)), config)


def polynomial(progress: float, config: RunConfig) -> float:
    """(1 - p)^power (transformers; its minimum rate of 1e-7 is 0 here)."""
    return _above_least((1.0 - min(1.0, progress)) ** config.train.lr_scheduler_power, config)


def warmup_stable_decay(progress: float, config: RunConfig) -> float:
    """1, then (1 + cos(pi q)) / 2 in the last steps, with their progress q (transformers' `get_wsd_schedule`)."""
    total, decay = config.train.max_train_steps or 1, config.train.lr_decay_steps
    share = (decay * total if decay < 1 else decay) / max(1.0, total - (config.train.lr_warmup_steps or 0))
    if progress < 1 - share or not share:
        return 1.0
    return _above_least(0.5 * (1.0 + math.cos(math.pi * (progress - (1 - share)) / share)), config)


def rex(progress: float, config: RunConfig) -> float:
    """(1 - p) / (1/2 + (1 - p) / 2) (Chen et al. 2021, arXiv 2107.04197)."""
    left = 1.0 - progress
    return _above_least(left / (0.5 + 0.5 * left), config)


def _above_least(factor: float, config: RunConfig) -> float:
    least = config.train.lr_scheduler_min_lr_ratio
    return least + (1.0 - least) * factor if least else factor

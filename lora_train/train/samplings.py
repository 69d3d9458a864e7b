"""Training times; see `config.training_methods.SAMPLINGS` for the signature."""

from __future__ import annotations

import torch

from lora_train.config import RunConfig
from lora_train.config.sections.train import TIMES
from lora_train.models.base import BaseModel


def uniform(count: int, generator: torch.Generator, model: BaseModel, config: RunConfig) -> torch.Tensor:
    """All times between the bounds alike; where there are none, as the family draws them."""
    first, last = _bounds(model, config)
    if (first, last) == (0, model.training_times):
        return model.draw_timesteps(count, generator)
    return torch.randint(first, last, (count,), generator=generator).to(model.device)


def logit_normal(count: int, generator: torch.Generator, model: BaseModel, config: RunConfig) -> torch.Tensor:
    """t = first + (last - first) * sigmoid(mean + std * z), z normal (Esser et al. 2024, arXiv 2403.03206)."""
    first, last = _bounds(model, config)
    z = torch.randn(count, generator=generator)
    place = torch.sigmoid(config.train.logit_mean + config.train.logit_std * z)
    return (first + (last - first) * place).long().clamp(max=last - 1).to(model.device)


def _bounds(model: BaseModel, config: RunConfig) -> tuple[int, int]:
    """The first time and the one after the last; they are given in thousandths of the process."""
    first, last = config.train.min_timestep, config.train.max_timestep
    return first * model.training_times // TIMES, last * model.training_times // TIMES

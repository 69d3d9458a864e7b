"""Timestep samplings; see `config.training_methods.SAMPLINGS` for the signature."""

from __future__ import annotations

import torch

from lora_train.config import RunConfig
from lora_train.config.sections.train import TIMES
from lora_train.models.base import BaseModel


def uniform(count: int, generator: torch.Generator, model: BaseModel, config: RunConfig) -> torch.Tensor:
    """All timesteps between the bounds equally often; without bounds, as the family draws them."""
    if _bounds(model, config) == (0, model.training_times):
        return model.draw_timesteps(count, generator)
    return _between(torch.rand(count, generator=generator), model, config)


def logit_normal(count: int, generator: torch.Generator, model: BaseModel, config: RunConfig) -> torch.Tensor:
    """t = first + (last - first) * sigmoid(mean + std * z), z normal (Esser et al. 2024, arXiv 2403.03206)."""
    z = torch.randn(count, generator=generator)
    return _between(torch.sigmoid(config.train.logit_mean + config.train.logit_std * z), model, config)


def _between(places: torch.Tensor, model: BaseModel, config: RunConfig) -> torch.Tensor:
    """The timesteps at these positions between 0, the first, and 1, the last, which is excluded."""
    first, last = _bounds(model, config)
    below = torch.nextafter(torch.tensor(last), torch.tensor(first))
    return model.as_times((first + (last - first) * places).clamp(max=below)).to(model.device)


def _bounds(model: BaseModel, config: RunConfig) -> tuple[float, float]:
    """The first timestep and the end; the options count in thousandths of the process."""
    first, last = config.train.min_timestep, config.train.max_timestep
    return first * model.training_times / TIMES, last * model.training_times / TIMES

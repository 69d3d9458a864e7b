"""A loss from outside: |p - y| to a power that an option says."""

from __future__ import annotations

import torch

from lora_train.config import RunConfig
from lora_train.config.extending import register
from lora_train.config.methods import Method
from lora_train.config.option import LOSS, About
from lora_train.config.table import Option
from lora_train.config.training_methods import LOSSES
from lora_train.models.base import BaseModel

POWER = Option(
    "train",
    "loss_power",
    4.0,
    float,
    About("Power of the loss", "power of the loss named power", LOSS, range=(1, 10), kohya=("loss_exponent",)),
)


def power(
    predicted: torch.Tensor, target: torch.Tensor, t: torch.Tensor, model: BaseModel, config: RunConfig
) -> torch.Tensor:
    """|p - y|^power."""
    return (predicted - target).abs() ** POWER.of(config)


def told(config: RunConfig) -> dict[str, object]:
    """What the metadata say of it."""
    return {"ss_loss_power": POWER.of(config)}


ADDED = (POWER, (LOSSES, Method("power", "a power of the difference", power, (POWER.path,), told)))


def add() -> None:
    """The one line."""
    register(*ADDED)

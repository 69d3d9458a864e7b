"""A schedule from outside: the rate falls to its half after each part of the training."""

from __future__ import annotations

from lora_train.config import RunConfig
from lora_train.config.extending import register
from lora_train.config.methods import Method
from lora_train.config.option import STEPS, About
from lora_train.config.table import Option
from lora_train.config.training_methods import SCHEDULES

STAIRS = Option(
    "train",
    "stairs",
    3,
    int,
    About("Stairs", "parts of the schedule stairs", STEPS, range=(1, 100), metadata="ss_stairs"),
)


def stairs(progress: float, config: RunConfig) -> float:
    """2^-floor(n p)."""
    return float(2.0 ** -int(progress * STAIRS.of(config)))


ADDED = (STAIRS, (SCHEDULES, Method("stairs", "half as much after each part", stairs, (STAIRS.path,))))


def add() -> None:
    """The one line."""
    register(*ADDED)

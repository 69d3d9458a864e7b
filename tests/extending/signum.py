"""An optimizer from outside: steps by the sign of a mean gradient (Bernstein et al. 2018, arXiv 1802.04434)."""

from __future__ import annotations

from typing import Any

import torch

from lora_train.config import RunConfig
from lora_train.config.extending import register
from lora_train.config.methods import Method
from lora_train.config.option import STEPS, About
from lora_train.config.table import Option
from lora_train.config.training_methods import OPTIMIZERS

MOMENTUM = Option(
    "train", "signum_momentum", 0.9, float, About("Momentum of signum", "how long it remembers", STEPS, range=(0, 1))
)


class Signum(torch.optim.Optimizer):
    """w -= lr * sign(m), with m = momentum * m + (1 - momentum) * g."""

    def __init__(self, groups: list[dict[str, Any]], momentum: float) -> None:
        super().__init__(groups, {"lr": 0.0, "momentum": momentum, "steps": 0})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            group["steps"] += 1
            for parameter in group["params"]:
                if parameter.grad is not None:
                    mean = self.state[parameter].setdefault("mean", torch.zeros_like(parameter))
                    mean.lerp_(parameter.grad, 1 - group["momentum"])
                    parameter.sub_(mean.sign(), alpha=group["lr"])


def made(groups: list[dict[str, Any]], config: RunConfig) -> torch.optim.Optimizer:
    """See `training_methods.OPTIMIZERS`."""
    return Signum(groups, MOMENTUM.of(config))


def told(config: RunConfig) -> dict[str, object]:
    """What the metadata say of it."""
    return {"ss_optimizer": f"signum(momentum={MOMENTUM.of(config)})"}


ADDED = (MOMENTUM, (OPTIMIZERS, Method("signum", "steps by the sign of a mean gradient", made, (MOMENTUM.path,), told)))


def add() -> None:
    """The one line."""
    register(*ADDED)

"""Optimizers for trainings that are killed: one that keeps its rate in its groups, as Prodigy does, and one that trains
between two points, as schedule-free ones do."""

from __future__ import annotations

from typing import Any

import torch

from lora_train.config import RunConfig
from lora_train.config.extending import register
from lora_train.config.methods import Method
from lora_train.config.training_methods import OPTIMIZERS


class Finding(torch.optim.Optimizer):
    """Adam whose rate grows with the distance from the start; that rate is in the group."""

    def __init__(self, groups: list[dict[str, Any]]) -> None:
        super().__init__(groups, {"lr": 0.0, "d": 1e-4, "k": 0})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            group["k"] += 1
            far = 0.0
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["start"], state["mean"] = parameter.clone(), torch.zeros_like(parameter)
                state["mean"].lerp_(parameter.grad, 0.2)
                far = max(far, float((parameter - state["start"]).abs().max()))
                parameter.sub_(state["mean"].sign(), alpha=group["lr"] * group["d"])
            group["d"] = max(group["d"], far)


class Between(torch.optim.Optimizer):
    """Gradient descent at z; trained at y, used at x, their mean."""

    def __init__(self, groups: list[dict[str, Any]]) -> None:
        super().__init__(groups, {"lr": 0.0, "train_mode": False, "k": 0})

    def train(self) -> None:
        """To the weights in training."""
        self._move(0.9, "train_mode", True)

    def eval(self) -> None:
        """To the weights in use."""
        self._move(1 - 1 / 0.9, "train_mode", False)

    @torch.no_grad()
    def _move(self, weight: float, name: str, on: bool) -> None:
        for group in self.param_groups:
            if group[name] != on:
                for parameter in group["params"]:
                    if "z" in self.state[parameter]:
                        parameter.lerp_(self.state[parameter]["z"], 1 - weight if on else weight)
            group[name] = on

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            group["k"] += 1
            for parameter in group["params"]:
                if parameter.grad is not None:
                    z = self.state[parameter].setdefault("z", parameter.clone())
                    z.sub_(parameter.grad, alpha=group["lr"])
                    parameter.lerp_(z, 1 / (group["k"] + 1))


def finding(groups: list[dict[str, Any]], config: RunConfig) -> torch.optim.Optimizer:
    """See `training_methods.OPTIMIZERS`."""
    return Finding(groups)


def between(groups: list[dict[str, Any]], config: RunConfig) -> torch.optim.Optimizer:
    """See `training_methods.OPTIMIZERS`."""
    return Between(groups)


def add() -> None:
    """The one line."""
    register(
        (OPTIMIZERS, Method("finding", "finds its rate", finding)),
        (OPTIMIZERS, Method("between", "trains between two points", between, own_schedule=True)),
    )

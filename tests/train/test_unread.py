"""Losses that are read late: the same reports, and nothing is saved after one that is not a number."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from lora_train.config import RunConfig, SaveOptions
from lora_train.errors import LoraTrainError
from lora_train.train.loop import Callbacks, StepReport, Trainer
from lora_train.train.unread import Taken, Unread
from tests.train.smallest import open_tiny
from tests.train.test_whole_step import DATA, NETWORK, OPTIONS, Shown, dataset_of
from tests.train.test_whole_step import shown as shown


def taken(step: int) -> Taken:
    return Taken(step, 1, torch.tensor(0.5), torch.tensor(1.0), {}, [], torch.zeros(0), torch.zeros(0))


def test_a_step_is_read_so_many_steps_late_or_when_it_is_asked_for() -> None:
    seen: list[int] = []
    unread = Unread(lambda one: seen.append(one.step), late=1)
    unread.add(taken(1))
    assert seen == []
    unread.add(taken(2))
    assert seen == [1]
    unread.read_all()
    unread.read_all()
    assert seen == [1, 2]
    unread.late = 0
    unread.add(taken(3))
    assert seen == [1, 2, 3]


def trainer_of(shown: list[Shown], late: int, **callbacks: Any) -> Trainer:
    train = replace(OPTIONS, max_train_steps=6)
    config = RunConfig(data=DATA, network=NETWORK, train=train, save=SaveOptions(save_every_n_steps=2))
    made = Trainer(config, open_tiny("epsilon"), dataset_of(shown), Callbacks(**callbacks))
    made._unread.late = late
    return made


def test_reports_are_the_same_and_come_before_what_is_saved(shown: list[Shown]) -> None:
    found = []
    for late in (0, 1):
        events: list[Any] = []
        made = trainer_of(shown, late, report=events.append, save=events.append)
        assert made.run() == 6
        made.network.detach()
        found.append([
            replace(one, pictures_per_second=0.0, seconds_left=0.0) if isinstance(one, StepReport) else one
            for one in events
        ])  # fmt: skip
    assert found[0] == found[1]
    order = [one.step if isinstance(one, StepReport) else f"saved {one}" for one in found[1]]
    assert order == [1, 2, "saved 2", 3, 4, "saved 4", 5, 6]


@pytest.mark.parametrize("late", [0, 1])
def test_nothing_is_saved_after_a_loss_that_is_not_a_number(
    shown: list[Shown], late: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    made = trainer_of(
        shown,
        late,
        report=lambda report: events.append(f"{report.step}"),
        save=lambda step: events.append(f"saved {step}"),
        state=lambda step: events.append(f"state {step}"),
    )
    cost = made._cost

    def broken(*given: torch.Tensor) -> torch.Tensor:
        return cost(*given) * (math.nan if made.steps_done == 3 else 1.0)

    monkeypatch.setattr(made, "_cost", broken)
    with pytest.raises(LoraTrainError, match=r"no longer a number, at step 4 with \d.png, \d.png"):
        made.run()
    made.network.detach()
    assert events == ["1", "2", "saved 2", "3"]


def test_a_state_that_is_saved_has_all_losses(shown: list[Shown], tmp_path: Path) -> None:
    smoothed = []
    for late in (0, 1):
        made = trainer_of(shown, late)
        made.callbacks.stopped = lambda made=made: made.steps_done == 3  # type: ignore[misc]
        made.callbacks.state = lambda step, made=made: smoothed.append((step, made.smoothed))  # type: ignore[misc]
        assert made.run() == 3
        made.network.detach()
    assert smoothed[0] == smoothed[1] and smoothed[0][0] == 3


class Scaled:
    """A loss scaler that is on, as fp16 has it on a GPU; here it changes nothing."""

    def scale(self, loss: torch.Tensor) -> torch.Tensor:
        return loss

    def unscale_(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = optimizer

    def step(self, optimizer: torch.optim.Optimizer) -> None:
        gradients = [one.grad for group in optimizer.param_groups for one in group["params"] if one.grad is not None]
        if all(bool(torch.isfinite(gradient).all()) for gradient in gradients):
            optimizer.step()

    def update(self) -> None:
        pass

    def is_enabled(self) -> bool:
        return True


def test_a_step_that_fp16_skips_is_reported_as_such(shown: list[Shown], monkeypatch: pytest.MonkeyPatch) -> None:
    reports: list[StepReport] = []
    made = trainer_of(shown, 0, report=reports.append)
    made.scaler = Scaled()
    backward = torch.Tensor.backward

    def too_large(self: torch.Tensor, *given: Any, **named: Any) -> None:
        backward(self * (math.inf if made.steps_done == 1 else 1.0), *given, **named)

    monkeypatch.setattr(torch.Tensor, "backward", too_large)
    assert made.run() == 6
    made.network.detach()
    assert [report.skipped for report in reports] == [False, True, False, False, False, False]
    assert all(math.isfinite(report.grad_norm) and math.isfinite(report.loss) for report in reports)
    assert reports[1].grad_norm == 0.0 < reports[2].grad_norm

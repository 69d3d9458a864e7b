"""The loss on held-out pictures is comparable between steps, runs and seeds; pictures that stand out are named."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from lora_train.config import NetworkOptions, RunConfig
from lora_train.data.training_set import Dataset
from lora_train.train.loop import Callbacks, StepReport, Trainer
from lora_train.train.picture_losses import PictureLosses
from lora_train.train.validation import PLACES, Lowest, Validation, _noise
from tests.train.smallest import open_tiny
from tests.train.test_whole_step import DATA, OPTIONS, Shown, dataset_of
from tests.train.test_whole_step import shown as shown


def _trainer(shown: list[Shown], held_out: int = 1, **train: Any) -> tuple[Trainer, list[Validation], list[StepReport]]:
    options = replace(OPTIONS, max_train_steps=6, validate_every_n_steps=2, **train)
    network = NetworkOptions(network_dim=4, network_alpha=2.0, network_dropout=0.5)
    whole = dataset_of(shown)
    dataset = Dataset(whole.items[held_out:], whole.latents, held_out=whole.items[:held_out])
    trainer = Trainer(RunConfig(data=DATA, network=network, train=options), open_tiny("v_prediction"), dataset)
    found: list[Validation] = []
    reports: list[StepReport] = []
    trainer.callbacks = Callbacks(reports.append, validated=lambda validation, lowest: found.append(validation))
    return trainer, found, reports


def test_it_is_measured_at_the_start_between_and_at_the_end(shown: list[Shown]) -> None:
    trainer, found, reports = _trainer(shown)
    trainer.run()
    assert [one.step for one in found] == [0, 2, 4, 6]
    assert [bool(report.validation) for report in reports] == [False, True] * 3
    assert reports[1].validation["loss"] == found[1].loss == sum(found[1].bands) / 4
    assert found[0].loss != found[1].loss


def test_measuring_changes_nothing_of_the_training(shown: list[Shown]) -> None:
    with_it, _, _ = _trainer(shown)
    without, _, _ = _trainer(shown)
    without.dataset.held_out = []
    for trainer in (with_it, without):
        trainer.run()
        trainer.network.detach()
    assert all(torch.equal(a, b) for a, b in zip(with_it.network.parameters(), without.network.parameters()))


def test_it_does_not_depend_on_the_seed_or_on_how_much_goes_through_at_once(shown: list[Shown]) -> None:
    """Of the base alone, before the first step."""
    starts = []
    for train in ({}, {"seed": 99, "noise_offset": 0.0, "min_snr_gamma": None}, {"micro_batch_size": 1}):
        trainer, found, _ = _trainer(shown, **train)
        trainer.callbacks.stopped = lambda: True
        trainer.run()
        starts.append(found[0])
    assert all(one.bands == pytest.approx(starts[0].bands, rel=1e-4) for one in starts)


def test_it_is_the_error_at_its_places_by_hand(shown: list[Shown]) -> None:
    trainer, _, _ = _trainer(shown, held_out=2)
    trainer.network.attach()
    model, losses = trainer.model, []
    with torch.no_grad():
        found = trainer.validator.measure(0)
        for item in trainer.dataset.held_out:
            x = model.scale_latents(trainer.dataset.latents[item.keys[0]][0])[None]
            for place in PLACES:
                t, noise = torch.tensor([int(place * 1000)]), _noise(item, place, x[0])[None]
                inputs = {**model.encode_text([item.picture.caption]), **model.extra_inputs([item.frame(False)])}
                predicted = model.predict(model.noised(x, noise, t), t, inputs)
                losses.append(float((predicted - model.target(x, noise, t)).square().mean()))
    trainer.network.detach()
    assert found.loss == pytest.approx(sum(losses) / 8, rel=1e-4)
    assert found.bands[0] == pytest.approx((losses[0] + losses[4]) / 2, rel=1e-4)
    assert not torch.equal(_noise(item, 0.125, x[0]), _noise(item, 0.375, x[0]))


def test_the_lowest_is_known_after_a_resume(shown: list[Shown], tmp_path: Path) -> None:
    trainer, _, _ = _trainer(shown)
    trainer.run()
    trainer.write_state(tmp_path / "state.safetensors")
    again, _, _ = _trainer(shown)
    again.read_state(tmp_path / "state.safetensors")
    assert again.lowest.loss == trainer.lowest.loss is not None and again.lowest.step == trainer.lowest.step
    assert again.picture_losses == trainer.picture_losses


def test_a_measurement_that_is_no_number_is_not_reported_or_kept(
    shown: list[Shown], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else weights that are not numbers would be saved as the best: the step's own loss is read after it."""
    trainer, found, _ = _trainer(shown)
    measure = trainer.validator.measure

    def broken(step: int) -> Validation:
        return replace(measure(step), loss=float("nan")) if step == 2 else measure(step)

    monkeypatch.setattr(trainer.validator, "measure", broken)
    trainer.run()
    assert [one.step for one in found] == [0, 4, 6] and trainer.lowest.step in (4, 6)


def test_which_is_the_lowest_and_when_it_turned() -> None:
    """The base alone is not a result, however low."""
    lowest = Lowest()
    losses = [(0, 0.1), (10, 0.5), (20, 0.4), (30, 0.41), (40, 0.39), (50, 0.42), (60, 0.43)]
    best = [lowest.add(Validation(step, loss, (loss,))) for step, loss in losses]
    assert best == [False, True, True, False, True, False, False]
    assert (lowest.step, lowest.loss, lowest.turned) == (40, 0.39, False)
    lowest.add(Validation(70, 0.44, (0.44,)))
    assert lowest.turned


def _losses(odd: float, late_from: int = 200) -> PictureLosses:
    """Ten pictures at random times, where the loss depends on the time far more than on the picture."""
    rng, found = random.Random(1), PictureLosses()
    for step in range(400):
        for number in range(10):
            time = rng.random()
            usual = (0.02 + time**2) * rng.uniform(0.8, 1.2)
            found.add(f"/in/{number}.png", usual * (odd if number == 7 else 1.0), time, step >= late_from)
    return found


@pytest.mark.parametrize(("odd", "words"), [(1.5, "7.png was learned worst"), (0.6, "7.png was learned by heart")])
def test_the_picture_that_stands_out_is_named(odd: float, words: str) -> None:
    (remark,) = _losses(odd).remarks()
    assert remark.startswith(words)


def test_nothing_is_said_where_none_stands_out_or_too_little_is_known() -> None:
    assert _losses(1.0).remarks() == []
    assert _losses(3.0, late_from=395).remarks() == []
    few = _losses(1.5)
    few.sums = {name: few.sums[name] for name in [*few.sums][5:9]}
    assert few.remarks() == []


def test_only_late_steps_count() -> None:
    found = PictureLosses()
    for step in range(100):
        for number in range(6):
            found.add(f"{number}.png", 5.0 if number == 3 and step < 50 else 1.0, 0.5, step >= 50)
    assert found.relative()["3.png"] == pytest.approx(found.relative()["2.png"], rel=0.2)

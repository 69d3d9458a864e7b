"""What the loop does around its steps: accumulation, text encoders that stop, norms, epochs, the saved state."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from lora_train.config import DataOptions, ModelOptions, NetworkOptions, RunConfig, TrainOptions
from lora_train.data.buckets import Placement
from lora_train.data.items import Item
from lora_train.data.scan import Picture
from lora_train.data.training_set import Dataset
from lora_train.errors import LoraTrainError
from lora_train.models.sdxl import StableDiffusionXL
from lora_train.networks.inject import NetworkSet
from lora_train.train import rows
from lora_train.train.loop import Callbacks, Pace, StepReport, Trainer
from lora_train.train.network import merge_base_weights
from tests.train.smallest import open_tiny

TRAIN = TrainOptions(
    max_train_steps=20,
    lr_warmup_steps=0,
    lr_scheduler="constant",
    unet_lr=1e-2,
    text_encoder_lr=1e-2,
    mixed_precision="fp32",
    device="cpu",
)
Make = Callable[..., Trainer]


@pytest.fixture(scope="module")
def model() -> StableDiffusionXL:
    return open_tiny("epsilon")


@pytest.fixture
def make(model: StableDiffusionXL) -> Make:
    """A trainer on four pictures of 32 x 32, by options of each group; its first step changes all weights."""

    def trainer(data: Any = None, network: Any = None, clip_skip: int = 1, **train: Any) -> Trainer:
        draw, items, latents = torch.Generator().manual_seed(1), [], {}
        for number in range(4):
            picture = Picture(Path(f"{number}.png"), 32, 32, f"one {number}", "", 1)
            items.append(Item(picture, Placement((32, 32), (32, 32), 0, 0), (str(number),)))
            latents[str(number)] = torch.randn(4, 4, 4, generator=draw), torch.zeros(4, 4, 4)
        config = RunConfig(
            model=ModelOptions(clip_skip=clip_skip),
            data=DataOptions(**{"train_batch_size": 2} | (data or {})),
            network=NetworkOptions(**{"network_dim": 2, "network_alpha": 1.0} | (network or {})),
            train=replace(TRAIN, **train),
        )
        made = Trainer(config, model, Dataset(items, latents))
        with torch.no_grad():
            for one in made.network.named().values():
                one.up.normal_(std=0.05, generator=draw)
        return made

    return trainer


def steps(trainer: Trainer, count: int) -> list[StepReport]:
    """Train so many steps more."""
    reports: list[StepReport] = []
    trainer.callbacks = Callbacks(reports.append, stopped=lambda: len(reports) == count)
    trainer.run()
    trainer.network.detach()
    return reports


def weights(trainer: Trainer, prefix: str) -> torch.Tensor:
    return torch.cat([value.detach().flatten() for value in trainer.network.parameters_of(prefix)]).clone()


def test_two_and_two_pictures_have_the_gradient_of_four(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Noise and times depend on the picture here, not on the batch that it is in."""
    monkeypatch.setattr(rows, "draw_noise", lambda x, config, generator: torch.full(x.shape, 0.5))
    monkeypatch.setattr(StableDiffusionXL, "draw_timesteps", lambda self, count, generator: torch.full((count,), 300))
    found = []
    for batch, accumulation in ((4, 1), (2, 2), (1, 4)):
        trainer = make(data={"train_batch_size": batch}, gradient_accumulation_steps=accumulation, max_grad_norm=0.0)
        (report,) = steps(trainer, 1)
        means = [state["exp_avg"] for state in trainer.optimizer.state.values()]
        found.append((report.loss, report.grad_norm, torch.cat([mean.flatten() for mean in means])))
    for loss, norm, gradient in found[1:]:
        assert (loss, norm) == (pytest.approx(found[0][0], rel=1e-4), pytest.approx(found[0][1], rel=1e-4))
        assert torch.allclose(gradient, found[0][2], rtol=1e-3, atol=1e-6)
    assert found[0][1] > 0


def test_regularisation_and_concepts_have_weights_of_their_own(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each picture's loss by itself, then all in one batch: the mean of 0.5, 1, 1 and 3 times theirs."""
    monkeypatch.setattr(rows, "draw_noise", lambda x, config, generator: torch.full(x.shape, 0.5))
    monkeypatch.setattr(StableDiffusionXL, "draw_timesteps", lambda self, count, generator: torch.full((count,), 300))
    trainer = make(data={"train_batch_size": 4}, prior_loss_weight=0.5)
    trainer.network.attach()
    items = trainer.dataset.items
    alone = [float(trainer._batch([item], 0)) for item in items]
    weighed = [
        replace(item, picture=replace(item.picture, reg=number == 0, weight=3.0 if number == 3 else 1.0))
        for number, item in enumerate(items)
    ]
    together = float(trainer._batch(weighed, 0))
    trainer.network.detach()
    expected = sum(weight * loss for weight, loss in zip((0.5, 1, 1, 3), alone)) / 4
    assert together == pytest.approx(expected, rel=1e-4) and together != pytest.approx(sum(alone) / 4, rel=1e-2)


def test_pictures_with_options_of_their_own_vary_by_them(make: Make) -> None:
    trainer = make(data={"caption_dropout_rate": 0.0})
    first, second, *_ = trainer.dataset.items
    second = replace(second, picture=replace(second.picture, own=(("caption_dropout_rate", 1.0),)))
    assert trainer.rows.captions([first, second], 0) == ["one 0", ""]


def test_captions_know_the_step_and_the_epoch(make: Make) -> None:
    """They grow over 4 steps of 2 batches each; an epoch is a step long here, and every second one has none."""
    item = make().dataset.items[0]
    item = replace(item, picture=replace(item.picture, caption="a, b, c, d, e"))
    grows = make(data={"token_warmup_step": 4.0}, gradient_accumulation_steps=2).rows
    counts = [len(grows.captions([item], position)[0].split(", ")) for position in range(9)]
    assert counts == [1, 1, 2, 2, 3, 3, 4, 4, 5]
    drops = make(data={"caption_dropout_every_n_epochs": 2}, gradient_accumulation_steps=2).rows
    assert [bool(drops.captions([item], position)[0]) for position in range(8)] == [True, True, False, False] * 2


def test_text_encoders_stop_after_their_last_step(make: Make) -> None:
    """They stay as they are from then on, decay included, while the UNet goes on."""
    trainer = make(stop_text_encoder_training=2, weight_decay=0.5)
    before = {prefix: weights(trainer, prefix) for prefix in ("lora_unet", "lora_te1", "lora_te2")}
    changed = []
    for _ in range(4):
        steps(trainer, 1)
        after = {prefix: weights(trainer, prefix) for prefix in before}
        changed.append([not torch.equal(before[prefix], after[prefix]) for prefix in before])
        before = after
    assert changed == [[True, True, True]] * 2 + [[True, False, False]] * 2


def test_what_stopped_text_encoders_say_is_whole(make: Make, model: StableDiffusionXL) -> None:
    """No dropout in what is kept for the rest of the run; the UNet's own goes on."""
    trainer = make(network={"network_dropout": 0.5}, stop_text_encoder_training=1)
    steps(trainer, 1)
    trainer.network.attach()
    with torch.no_grad():
        expected = {name: model.encode_text([name])["states"] for name in ("one 0", "one 3")}
        with trainer.network.dropping(lambda name: pytest.fail("something was left out of the text")):
            found = trainer._encode(list(expected))["states"]
    trainer.network.detach()
    assert torch.allclose(found, torch.cat(list(expected.values())), atol=1e-5)


def test_dropping_is_what_it_was_after_a_block_without(make: Make) -> None:
    network: NetworkSet = make().network
    name, one = next((name, one) for name, one in network.named("lora_te1").items() if name.endswith("q_proj"))
    base, x = network._bases[name], torch.ones(1, 64)

    def left_out() -> bool:
        return network._hook(name, one)(base, (x,), base(x)) is None

    with network.dropping(lambda name: None):
        assert left_out()
        with network.dropping(None):
            assert not left_out()
        assert left_out()
    assert not left_out()


@pytest.mark.parametrize("trained", [True, False])
def test_clip_skip_reaches_the_text_encoder(
    make: Make, model: StableDiffusionXL, monkeypatch: pytest.MonkeyPatch, trained: bool
) -> None:
    asked: list[int] = []
    encode = StableDiffusionXL.encode_text

    def spy(self: Any, captions: Any, clip_skip: int = 1) -> Any:
        asked.append(clip_skip)
        return encode(self, captions, clip_skip)

    monkeypatch.setattr(StableDiffusionXL, "encode_text", spy)
    steps(make(clip_skip=2, network={"network_train_unet_only": not trained}), 1)
    assert asked and set(asked) == {2}


def test_no_delta_has_a_larger_norm_than_allowed(make: Make) -> None:
    @torch.no_grad()
    def norms(trainer: Trainer) -> list[float]:
        deltas = (one.up.flatten(1) @ one.down.flatten(1) * one.scale for one in trainer.network.named().values())
        return [float(delta.norm()) for delta in deltas]

    free = make()
    steps(free, 1)
    limit = sorted(norms(free))[len(norms(free)) // 2]
    limited = make(network={"scale_weight_norms": limit})
    steps(limited, 1)
    assert norms(limited) == pytest.approx([min(norm, limit) for norm in norms(free)], rel=1e-3)


def test_each_root_has_its_own_ratio_of_the_up_matrices(make: Make) -> None:
    ratios = {"loraplus_lr_ratio": 2.0, "loraplus_unet_lr_ratio": 4.0, "loraplus_text_encoder_lr_ratio": 8.0}
    rates = {"lora_unet": 0.01, "lora_unet up": 0.04, "lora_te1": 0.01, "lora_te1 up": 0.08}
    rates |= {"lora_te2": 0.01, "lora_te2 up": 0.08}
    assert steps(make(network=ratios), 1)[0].learning_rates == pytest.approx(rates)
    both = steps(make(network={"loraplus_lr_ratio": 2.0}), 1)[0].learning_rates
    assert both == pytest.approx({name: 0.02 if name.endswith(" up") else 0.01 for name in rates})


def test_base_weights_count_once_where_no_strength_is_said(
    model: StableDiffusionXL, monkeypatch: pytest.MonkeyPatch
) -> None:
    applied: list[tuple[str, float, float]] = []

    def apply(self: Any, networks: Any) -> list[Any]:
        applied.extend((path.name, tag.te, tag.unet) for tag, path in networks)
        return []

    monkeypatch.setattr("lora_train.train.network.Applier.apply", apply)
    options = NetworkOptions(base_weights=("a.safetensors", "b.safetensors"), base_weights_multiplier=(0.5,))
    assert merge_base_weights(options, model) == ()
    assert applied == [("a.safetensors", 0.5, 0.5), ("b.safetensors", 1.0, 1.0)]


@pytest.mark.parametrize(("batch", "accumulation"), [(2, 1), (1, 2)])
def test_every_epoch_has_its_own_order_and_a_resumed_one_its_place(make: Make, batch: int, accumulation: int) -> None:
    """Two steps an epoch, each of two pictures."""
    trainer = make(data={"train_batch_size": batch}, gradient_accumulation_steps=accumulation)

    def shown(first: int, count: int) -> list[list[str]]:
        batches = (trainer.order.batches(step) for step in range(first, first + count))
        return [[item.keys[0] for batch in step for item in batch] for step in batches]

    seen = shown(0, 40)
    epochs = [seen[start : start + 2] for start in range(0, 40, 2)]
    assert all(sorted(one + other) == ["0", "1", "2", "3"] for one, other in epochs)
    assert len({str(epoch) for epoch in epochs}) > 5
    for start in (1, 4, 7):
        assert shown(start, 5) == seen[start : start + 5]
        assert trainer.order.epoch_of(start + 4) == (start + 4) // 2


def test_a_resumed_run_shows_no_picture_of_the_beginning(make: Make) -> None:
    for done, expected in ((0, [0]), (5, [])):
        trainer, shown = make(), list[int]()
        trainer.steps_done = done
        trainer.callbacks = Callbacks(preview=shown.append, stopped=lambda: True)
        assert trainer.run() == done
        trainer.network.detach()
        assert shown == expected


def test_the_saved_state_has_all_that_goes_on(make: Make, tmp_path: Path) -> None:
    first, path = make(), tmp_path / "state" / "state.safetensors"
    smoothed = steps(first, 3)[-1].smoothed
    first.write_state(path)
    second = make()
    assert second.read_state(path) is True
    assert (second.steps_done, second.smoothed) == (3, pytest.approx(smoothed))
    assert steps(second, 1)[0].step == 4
    steps(first, 1)
    for prefix in ("lora_unet", "lora_te1", "lora_te2"):
        assert torch.equal(weights(first, prefix), weights(second, prefix))
    other = make()
    other.dataset.items[0] = replace(
        other.dataset.items[0], picture=replace(other.dataset.items[0].picture, caption="x")
    )
    assert other.read_state(path) is False, "another caption is another training set"


def test_a_state_that_cannot_be_written_leaves_the_one_before(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer, path = make(), tmp_path / "state.safetensors"
    trainer.write_state(path)
    before = path.read_bytes()

    def full(*_args: Any) -> None:
        raise OSError(28, "No space left on device")

    steps(trainer, 1)
    with monkeypatch.context() as patch:
        patch.setattr("os.replace", full)
        with pytest.raises(LoraTrainError, match="No space left"):
            trainer.write_state(path)
    assert path.read_bytes() == before and [one.name for one in tmp_path.iterdir()] == [path.name]
    trainer.write_state(path)
    assert path.read_bytes() != before


def test_the_state_is_due_every_so_many_minutes(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr("lora_train.train.pace.time.monotonic", lambda: now[0])
    pace = Pace(4)
    due = []
    for seconds in (0, 60, 119, 120, 121, 239, 240):
        now[0] = 1000.0 + seconds
        due.append(pace.due(2.0))
    assert due == [False, False, False, True, False, False, True]
    assert not pace.due(0)
    assert pace.seconds_per_step(4 + 12) == pytest.approx(240 / 12)


def test_the_last_step_is_saved_and_shown_by_the_run_itself(make: Make) -> None:
    """An intermediate file or preview there would be the result's, twice."""
    trainer = make(max_train_steps=4)
    trainer.config = replace(
        trainer.config,
        save=replace(trainer.config.save, save_every_n_steps=2),
        preview=replace(trainer.config.preview, sample_every_n_steps=2),
    )
    saved: list[int] = []
    shown: list[int] = []
    trainer.callbacks = Callbacks(save=saved.append, preview=shown.append)
    assert trainer.run() == 4
    trainer.network.detach()
    assert (saved, shown) == ([2], [0, 2]) and not math.isnan(trainer.smoothed)


OPTIONS_OF_A_STEP: list[dict[str, Any]] = [
    {"loss_type": "l1"},
    {"loss_type": "huber"},
    {"loss_type": "smooth_l1", "huber_schedule": "exponential"},
    {"min_snr_gamma": 1.0},
    {"debiased_estimation_loss": True},
    {"v_pred_like_loss": 0.5},
    {"p2_gamma": 1.0},
    {"scale_v_pred_loss_like_noise_pred": True},
    {"noise_offset": 0.1},
    {"noise_offset": 0.1, "adaptive_noise_scale": 0.5},
    {"noise_offset": 0.1, "noise_offset_random_strength": True},
    {"multires_noise_iterations": 3},
    {"multires_noise_iterations": 3, "multires_noise_discount": 0.9},
    {"ip_noise_gamma": 0.1},
    {"ip_noise_gamma": 0.1, "ip_noise_gamma_random_strength": True},
    {"min_timestep": 900},
    {"max_timestep": 100},
    {"timestep_sampling": "logit_normal"},
    {"timestep_sampling": "logit_normal", "logit_mean": 1.0},
    {"timestep_sampling": "logit_normal", "logit_std": 0.1},
]


def test_every_option_of_the_step_reaches_it(make: Make) -> None:
    """Each makes a loss of its own."""
    losses = [steps(make(**options), 1)[0].loss for options in ({}, *OPTIONS_OF_A_STEP)]
    assert len(set(losses)) == len(losses) and all(map(math.isfinite, losses))


def test_times_and_noise_are_those_that_are_asked_for(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """The trainer's own draw: the input's noise from a generator of its own, so that the target's stays the same."""
    x = torch.zeros(2, 4, 4, 4)
    plain, disturbed = make().rows._draw(x, 5), make(ip_noise_gamma=0.5).rows._draw(x, 5)
    assert torch.equal(plain.noise, disturbed.noise) and plain.seen is None and disturbed.seen is not None
    other = torch.randn(x.shape, generator=make().random.torch("input noise", 5))
    assert torch.allclose(disturbed.seen, plain.noise + 0.5 * other, atol=1e-6)
    assert torch.equal(plain.t, disturbed.t) and int(make(min_timestep=990).rows._draw(x, 5).t.min()) >= 990

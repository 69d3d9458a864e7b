"""Optimizers by name and arguments: what is made, what it does, and that a resumed one goes on with the same bits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from lora_train.config import (
    DataOptions,
    Facts,
    NetworkOptions,
    RunConfig,
    TrainOptions,
    idle_notes,
    problems,
    resolve,
)
from lora_train.config.extending import registered_for
from lora_train.config.methods import Method
from lora_train.config.training_methods import OPTIMIZERS
from lora_train.data.buckets import Placement
from lora_train.data.scan import Picture
from lora_train.data.training_set import Dataset, Item
from lora_train.errors import LoraTrainError
from lora_train.runs.check import check_run
from lora_train.train.loop import Callbacks, Trainer
from lora_train.train.schedule import lr_factor
from tests.train.smallest import open_tiny

Make = Callable[..., Trainer]


def made(values: list[float], **train: Any) -> tuple[torch.nn.Parameter, torch.optim.Optimizer]:
    """A parameter of these values and the optimizer of a run for it."""
    parameter = torch.nn.Parameter(torch.tensor(values))
    config = RunConfig(train=TrainOptions(**train))
    groups = [{"params": [parameter], "base_lr": 0.1, "lr": 0.1, "name": "lora_unet"}]
    return parameter, OPTIMIZERS.of(config)(groups, config)


def stepped(values: list[float], gradients: list[list[float]], **train: Any) -> list[float]:
    parameter, optimizer = made(values, **train)
    for gradient in gradients:
        parameter.grad = torch.tensor(gradient)
        optimizer.step()
    return [float(value) for value in parameter.detach()]


def test_sgd_and_its_arguments() -> None:
    """w - lr (g + decay w), and with momentum m = 0.5 m + g."""
    assert stepped([1.0, -2.0], [[0.5, 1.0]], optimizer="sgd", weight_decay=0.0) == pytest.approx([0.95, -2.1])
    assert stepped([1.0], [[0.0]], optimizer="sgd", weight_decay=0.5) == pytest.approx([0.95])
    arguments = ("momentum=0.5", "weight_decay=0")
    assert stepped([1.0], [[1.0], [1.0]], optimizer="sgd", optimizer_args=arguments) == pytest.approx([1 - 0.1 - 0.15])
    nesterov = stepped([1.0], [[1.0]], optimizer="sgdnesterov", weight_decay=0.0)
    assert nesterov == pytest.approx([1 - 0.1 * (1 + 0.9 * 1)])


def test_adamw_takes_arguments_over_the_options() -> None:
    _, optimizer = made([1.0], weight_decay=0.3, optimizer_args=("betas=0.8,0.9", "eps=1e-6", "weight_decay=0.2"))
    group = optimizer.param_groups[0]
    assert type(optimizer) is torch.optim.AdamW
    assert (group["betas"], group["eps"], group["weight_decay"], group["lr"]) == ((0.8, 0.9), 1e-6, 0.2, 0.1)


def test_adafactor_uses_the_rate_that_is_given_or_its_own() -> None:
    _, optimizer = made([1.0], optimizer="adafactor")
    assert [optimizer.param_groups[0][name] for name in ("relative_step", "scale_parameter")] == [False, False]
    _, optimizer = made([1.0], optimizer="adafactor", optimizer_args=("relative_step=True", "scale_parameter=True"))
    assert optimizer.param_groups[0]["relative_step"] is True


def test_the_metadata_says_what_is_made() -> None:
    def told(**train: Any) -> Any:
        config = RunConfig(train=TrainOptions(**train))
        return OPTIMIZERS.of(config).metadata(config)["ss_optimizer"]

    assert told() == "torch.optim.adamw.AdamW(weight_decay=0.01)"
    arguments = ("betas=0.8,0.9", "weight_decay=0.2")
    assert told(optimizer_args=arguments) == "torch.optim.adamw.AdamW(weight_decay=0.2,betas=(0.8, 0.9))"
    assert told(optimizer="sgdnesterov") == "torch.optim.sgd.SGD(momentum=0.9,nesterov=True,weight_decay=0.01)"
    assert told(optimizer="rprop") == "torch.optim.rprop.Rprop()"
    for name in OPTIMIZERS:
        if not OPTIMIZERS[name].missing:
            kind = type(made([1.0], optimizer=name)[1])
            assert told(optimizer=name).partition("(")[0] == f"{kind.__module__}.{kind.__name__}"


@pytest.mark.parametrize(
    ("train", "where", "why"),
    [
        ({"optimizer_args": ("speed=1",)}, "train.optimizer_args", "AdamW has no argument speed. It has: .*betas"),
        ({"optimizer_args": ("betas=0.5,2",)}, "train.optimizer_args", "AdamW refuses its arguments"),
        ({"optimizer": "sgd", "optimizer_args": ("momentum=-1",)}, "train.optimizer_args", "SGD refuses"),
    ],
)
def test_arguments_that_it_does_not_take(train: dict[str, Any], where: str, why: str) -> None:
    with pytest.raises(LoraTrainError, match=f"{where}: {why}"):
        made([1.0], **train)


@pytest.mark.parametrize("text", ["momentum", "=1", "a b=1", "betas=x", "eps=__import__('os')"])
def test_arguments_that_cannot_be_read_are_a_problem_of_the_option(text: str) -> None:
    found = [one for one in problems(RunConfig(train=TrainOptions(optimizer_args=(text,)))) if "optimizer" in one.where]
    assert [one.where for one in found] == ["train.optimizer_args"] and repr(text) in found[0].what


LATER = Method("later", "not there", "nowhere:f", package="no_such_package_here", install="no-such-package")


def test_what_is_not_installed_is_said_with_the_rest(make_config: Any, host: Any) -> None:
    config = make_config(train={"optimizer": "later", "seed": -1})
    with registered_for((OPTIMIZERS, LATER)), pytest.raises(LoraTrainError) as caught:
        check_run(config, host)
    found = {one.where: one for one in caught.value.problems}
    assert found.keys() == {"train.seed", "train.optimizer"}
    assert "pip install no-such-package" in found["train.optimizer"].fix
    missing = [name for name in OPTIMIZERS if OPTIMIZERS[name].missing]
    for name in missing[:1]:
        with pytest.raises(LoraTrainError, match="cannot be imported"):
            made([1.0], optimizer=name)


def test_optimizers_with_a_rate_of_their_own_get_one_for_all() -> None:
    facts = Facts(pictures=10, native_resolution=512, device="cpu", fast_bf16=False)
    config, choices = resolve(RunConfig(train=TrainOptions(optimizer="prodigy")), facts)
    train = config.train
    assert (train.learning_rate, train.unet_lr, train.text_encoder_lr) == (1.0, 1.0, 1.0)
    assert any("finds the learning rate itself" in one.why for one in choices if one.field == "train.learning_rate")
    given = RunConfig(train=TrainOptions(optimizer="prodigy", unet_lr=0.5))
    assert resolve(given, facts)[0].train.text_encoder_lr == 0.5
    for train, good in (
        (TrainOptions(optimizer="prodigy", unet_lr=1.0, text_encoder_lr=0.5), False),
        (TrainOptions(optimizer="prodigy", unet_lr=1.0, text_encoder_lr=0.0), True),
        (TrainOptions(optimizer="adamw", unet_lr=1.0, text_encoder_lr=0.5), True),
    ):
        found = [one for one in problems(RunConfig(train=train)) if one.where == "train.optimizer"]
        assert good != bool(found)
    groups = [{"params": [], "base_lr": rate} for rate in (1.0, 0.5)]
    with pytest.raises(LoraTrainError, match="finds one learning rate for all, but these differ: 0.5, 1"):
        OPTIMIZERS["prodigy"](groups, config)


class Averaged(torch.optim.Optimizer):
    """Schedule-free gradient descent (Defazio et al. 2024, arXiv 2405.15682): z descends, x is its mean, and the
    gradient is taken between them."""

    def __init__(self, groups: list[dict[str, Any]]) -> None:
        super().__init__(groups, {"lr": 0.1, "steps": 0})
        self.training = False

    @torch.no_grad()
    def _switch(self, training: bool) -> None:
        for group in self.param_groups:
            for parameter in group["params"]:
                if self.training != training and "z" in self.state[parameter]:
                    weight = 0.1 if training else 1 - 1 / 0.9
                    parameter.lerp_(self.state[parameter]["z"], weight)
        self.training = training

    def train(self) -> None:
        self._switch(True)

    def eval(self) -> None:
        self._switch(False)

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        assert self.training
        for group in self.param_groups:
            group["steps"] += 1
            for parameter in group["params"]:
                if parameter.grad is not None:
                    z = self.state[parameter].setdefault("z", parameter.clone())
                    x = parameter.lerp(z, 1 - 1 / 0.9)
                    z.sub_(parameter.grad, alpha=group["lr"])
                    parameter.copy_(x.lerp(z, 1 / group["steps"]).lerp(z, 0.1))


AVERAGED = Method(
    "averaged", "schedule-free descent", lambda groups, config: Averaged(groups), own_schedule=True
)  # fmt: skip


@pytest.fixture(scope="module")
def model() -> Any:
    return open_tiny("epsilon")


@pytest.fixture
def make(model: Any) -> Make:
    def trainer(**train: Any) -> Trainer:
        draw, items, latents = torch.Generator().manual_seed(1), [], {}
        for number in range(4):
            picture = Picture(Path(f"{number}.png"), 32, 32, f"one {number}", "", 1)
            items.append(Item(picture, Placement((32, 32), (32, 32), 0, 0), (str(number),)))
            latents[str(number)] = torch.randn(4, 4, 4, generator=draw), torch.zeros(4, 4, 4)
        usual: dict[str, Any] = {"max_train_steps": 20, "lr_warmup_steps": 0, "unet_lr": 1e-2}
        config = RunConfig(
            data=DataOptions(train_batch_size=2),
            network=NetworkOptions(network_dim=2, network_alpha=1.0, network_train_unet_only=True),
            train=TrainOptions(**usual | {"device": "cpu", "mixed_precision": "fp32"} | train),
        )
        made = Trainer(config, model, Dataset(items, latents))
        with torch.no_grad():
            for one in made.network.named().values():
                one.up.normal_(std=0.05, generator=draw)
        return made

    return trainer


def steps(trainer: Trainer, count: int) -> None:
    done: list[int] = []
    trainer.callbacks = replace(trainer.callbacks, report=lambda report: done.append(report.step))
    trainer.callbacks.stopped = lambda: len(done) == count
    trainer.run()
    trainer.network.detach()


def weights(trainer: Trainer) -> torch.Tensor:
    return torch.cat([value.detach().flatten() for value in trainer.network.parameters()]).clone()


OTHERS = ["prodigy", "dadaptadam", "adamwschedulefree", "lion", "came"]


@pytest.mark.parametrize("name", ["radam", "sgdnesterov", "adafactor", "averaged", *OTHERS])
def test_a_resumed_training_goes_on_with_the_same_bits(make: Make, tmp_path: Path, name: str) -> None:
    with registered_for((OPTIMIZERS, AVERAGED)):
        if OPTIMIZERS[name].missing:
            pytest.skip(f"{OPTIMIZERS[name].install} is not installed")
        first, second, path = make(optimizer=name), make(optimizer=name), tmp_path / "state.safetensors"
        before = weights(first)
        steps(first, 2)
        first.write_state(path)
        assert second.read_state(path)
        steps(first, 2)
        steps(second, 2)
        assert torch.equal(weights(first), weights(second)) and not torch.equal(weights(first), before)


def test_what_is_saved_and_shown_are_the_weights_in_use(make: Make) -> None:
    """And neither saving nor a preview changes a bit of the training."""
    with registered_for((OPTIMIZERS, AVERAGED)):
        plain, shown = make(optimizer="averaged"), make(optimizer="averaged")
        shown.config = replace(
            shown.config,
            save=replace(shown.config.save, save_every_n_steps=1),
            preview=replace(shown.config.preview, sample_every_n_steps=2),
        )
        seen: list[torch.Tensor] = []
        in_training: list[torch.Tensor] = []
        shown.callbacks = Callbacks(
            save=lambda step: seen.append(weights(shown)),
            preview=lambda step: seen.append(weights(shown)),
            report=lambda report: None,
        )
        steps(plain, 3)
        done: list[int] = []
        shown.callbacks.stopped = lambda: len(done) == 3

        def report(report: Any) -> None:
            done.append(report.step)
            in_training.append(weights(shown))

        shown.callbacks.report = report
        shown.run()
        shown.network.detach()
        assert torch.equal(weights(plain), weights(shown)), "the result, too, has the weights in use"
        optimizer = shown.optimizer
        z = torch.cat([optimizer.state[one]["z"].flatten() for one in shown.network.parameters()])
        assert torch.allclose(in_training[-1].lerp(z, 1 - 1 / 0.9), weights(shown), atol=1e-6)
        preview_at_start, first, second, preview, third = seen
        assert torch.equal(second, preview) and torch.equal(third, weights(shown))
        assert not torch.equal(second, in_training[1]) and not torch.equal(first, preview_at_start)


def test_an_optimizer_without_a_schedule_gets_the_whole_rate_after_the_warm_up() -> None:
    train = TrainOptions(max_train_steps=10, lr_warmup_steps=2, optimizer="averaged", lr_scheduler="linear")
    with registered_for((OPTIMIZERS, AVERAGED)):
        assert [lr_factor(RunConfig(train=train), step) for step in (0, 1, 2, 9)] == [0.5, 1.0, 1.0, 1.0]
        (note,) = [text for text in idle_notes(RunConfig(train=train)) if "lr_scheduler" in text]
        assert "no effect with train.optimizer averaged, which needs a constant rate" in note
    told = OPTIMIZERS["adamwschedulefree"].metadata(RunConfig())
    assert told["ss_lr_scheduler"] == "constant"

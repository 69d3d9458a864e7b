"""Parameters as slices of one buffer train as they would alone, and files do not show the difference."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import CLIPTokenizer

from lora_train.config import NetworkOptions, RunConfig, TrainOptions
from lora_train.config.training_methods import OPTIMIZERS
from lora_train.data.training_set import Dataset
from lora_train.demo.files import base_folder
from lora_train.models.base import Parts
from lora_train.models.sd1 import StableDiffusion1
from lora_train.networks.base import as_input
from lora_train.train import flat
from lora_train.train.flat import Flat
from lora_train.train.loop import Callbacks, StepReport, Trainer
from tests.models.tiny import schedule, text_encoder
from tests.train.smallest import NoVae, open_tiny
from tests.train.test_whole_step import DATA, OPTIONS, Shown, dataset_of
from tests.train.test_whole_step import shown as shown

SHAPES = ((3, 2), (4,), (2, 2, 1, 1))
ELEMENTWISE = [name for name in OPTIMIZERS if OPTIMIZERS[name].elementwise]


def groups_of(count: int = 2) -> list[dict[str, Any]]:
    draw = torch.Generator().manual_seed(1)
    return [
        {
            "params": [nn.Parameter(torch.randn(shape, generator=draw)) for shape in SHAPES],
            "base_lr": 0.1 / (group + 1),
            "lr": 0.1 / (group + 1),
            "name": f"lora_{group}",
        }
        for group in range(count)
    ]


def trained(name: str, elementwise: bool, still: bool) -> tuple[list[torch.Tensor], dict[int, dict[str, Any]]]:
    """Weights and state after four steps; with `still` one parameter of the first group never has a gradient."""
    groups = groups_of()
    parameters = [parameter for group in groups for parameter in group["params"]]
    made = Flat(groups, elementwise)
    optimizer = OPTIMIZERS[name](groups, RunConfig(train=TrainOptions(optimizer=name, weight_decay=0.1)))
    assert len(optimizer.param_groups[0]["params"]) == (1 if elementwise else 3)
    draw = torch.Generator().manual_seed(2)
    for _ in range(4):
        for number, parameter in enumerate(parameters):
            gradient = torch.randn(parameter.shape, generator=draw)
            if not (still and number == 1):
                parameter.grad = gradient
        made.collect()
        with made.only_with_gradient():
            optimizer.step()
        optimizer.zero_grad()
        made.forget_gradients()
    return [parameter.detach() for parameter in parameters], made.split(optimizer.state_dict()["state"])


@pytest.mark.parametrize("still", [False, True], ids=["all", "one without gradient"])
@pytest.mark.parametrize("name", ELEMENTWISE)
def test_an_optimizer_does_the_same_to_slices_of_a_buffer(name: str, still: bool) -> None:
    (alone, state), (together, states) = trained(name, False, still), trained(name, True, still)
    for first, second in zip(alone, together):
        assert torch.equal(first, second)
    for index, values in state.items():
        for key, value in values.items():
            found = states[index][key]
            if still and index == 1:
                continue  # alone it has none, or only its beginning
            assert torch.equal(value, found) if isinstance(value, torch.Tensor) else value == found, (index, key)


def test_optimizers_that_look_at_shapes_are_not_among_them() -> None:
    assert {"adamw", "sgd", "radam"} <= {*ELEMENTWISE}
    assert not {"adafactor", "prodigy", "adamw8bit", "came", "adamwschedulefree"} & {*ELEMENTWISE}


def test_a_state_goes_there_and_back() -> None:
    groups = groups_of()
    made = Flat(groups)
    whole = {
        0: {"step": torch.tensor(3.0), "mean": torch.arange(14.0), "count": 5},
        1: {"step": torch.tensor(4.0), "mean": torch.arange(14.0) + 20, "count": 6},
    }
    parts = made.split(whole)
    assert [tuple(parts[index]["mean"].shape) for index in range(6)] == [*SHAPES, *SHAPES]
    assert parts[1]["mean"].tolist() == [6, 7, 8, 9] and parts[4]["mean"].tolist() == [26, 27, 28, 29]
    assert [float(parts[index]["step"]) for index in range(6)] == [3.0] * 3 + [4.0] * 3
    back = made.join(parts)
    assert back.keys() == whole.keys()
    for index, values in whole.items():
        assert torch.equal(back[index]["mean"], values["mean"]) and back[index]["count"] == values["count"]
    del parts[1]  # an older file has nothing of a parameter that never had a gradient
    assert made.join(parts)[0]["mean"].tolist() == [*range(6), 0, 0, 0, 0, *range(10, 14)]
    parts[2]["step"] = torch.tensor(7.0)
    with pytest.raises(ValueError, match="step differs"):
        made.join(parts)
    assert made.split({}) == {} == made.join({})


def test_large_parameters_and_single_ones_stay_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = [{"params": [nn.Parameter(torch.ones(2))]}]
    assert not Flat(alone).buffers
    monkeypatch.setattr(flat, "LARGE", 4)
    groups = groups_of(1)
    assert not Flat(groups).buffers and len(groups[0]["params"]) == 3
    monkeypatch.setattr(flat, "LARGE", 5)  # 14 elements in three
    assert len(Flat(groups).buffers) == 1 and len(groups[0]["params"]) == 1


def test_weights_are_cast_once_and_their_gradients_reach_the_buffer() -> None:
    groups = groups_of(1)
    parameters = groups[0]["params"]
    made = Flat(groups)
    x = torch.ones((), dtype=torch.bfloat16)
    with made.cast(torch.bfloat16):
        cast = [as_input(x, parameter) for parameter in parameters]
        assert {value.dtype for value in cast} == {torch.bfloat16}
        assert [as_input(x, parameter) is value for parameter, value in zip(parameters, cast)] == [True] * 3
        ((cast[0] * 2).sum() + (cast[2].float() * 3).sum()).backward()
        (parameters[1] * 5).sum().backward()  # in fp32 as well
    assert as_input(x, parameters[0]) is not cast[0]
    with made.cast(torch.bfloat16):
        as_input(x, parameters[0]).sum().backward()
    with pytest.raises(KeyError), made.cast(torch.bfloat16):
        as_input(x, parameters[0]).sum().backward()
        raise KeyError
    made.collect()
    (buffer,) = groups[0]["params"]
    assert buffer.grad.tolist() == [3.0] * 6 + [5.0] * 4 + [3.0] * 4
    assert all(parameter.grad is None for parameter in parameters)
    made.forget_gradients()
    assert buffer.grad is None
    with made.cast(torch.float32):
        assert as_input(torch.ones(()), parameters[0]) is parameters[0]


def steps(trainer: Trainer, count: int) -> list[float]:
    norms: list[float] = []
    trainer.callbacks = Callbacks(lambda report: norms.append(report.grad_norm), stopped=lambda: len(norms) == count)
    trainer.run()
    trainer.network.detach()
    return norms


def new(shown: list[Shown], monkeypatch: pytest.MonkeyPatch, buffers: bool, **train: Any) -> Trainer:
    monkeypatch.setattr(flat, "_small", lambda parameters: buffers)
    torch.manual_seed(0)
    network = NetworkOptions(network_dim=4, network_alpha=2.0, network_dropout=0.3)
    options = TrainOptions(**{**OPTIONS.__dict__, "max_train_steps": 20, **train})
    return Trainer(RunConfig(data=DATA, network=network, train=options), open_tiny("epsilon"), dataset_of(shown))


def test_a_state_of_one_way_goes_on_in_the_other(
    shown: list[Shown], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Clip skip leaves the text encoders' last layers without a gradient; they do not decay either."""
    single, together = new(shown, monkeypatch, False), new(shown, monkeypatch, True)
    assert len(together.optimizer.param_groups[0]["params"]) == 1 < len(single.optimizer.param_groups[0]["params"])
    assert steps(single, 3) == pytest.approx(steps(together, 3), rel=1e-5)
    paths = tmp_path / "single.safetensors", tmp_path / "together.safetensors"
    single.write_state(paths[0])
    together.write_state(paths[1])
    crossed = new(shown, monkeypatch, True), new(shown, monkeypatch, False)
    for trainer, path in zip(crossed, paths):
        assert trainer.read_state(path)
    for trainer in (single, together, *crossed):
        steps(trainer, 3)
    first = {name: value.detach() for name, value in single.network.named_parameters()}
    for trainer in (together, *crossed):
        for name, value in trainer.network.named_parameters():
            assert torch.allclose(value, first[name], rtol=1e-4, atol=1e-6), name


class Operations(TorchDispatchMode):
    """Counts what would be a kernel on a GPU: calls that compute something."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.__name__
        self.count += not (func.is_view or name.startswith(("empty", "detach", "new_empty", "_local_scalar")))
        return func(*args, **(kwargs or {}))


def operations(trainer: Trainer) -> int:
    """Of the second step: the first makes the optimizer's state."""
    counting, reports = Operations(), list[StepReport]()

    def report(made: StepReport) -> None:
        reports.append(made)
        counting.__enter__() if len(reports) == 1 else counting.__exit__(None, None, None)

    trainer.callbacks = Callbacks(report, stopped=lambda: len(reports) == 2)
    trainer.run()
    trainer.network.detach()
    return counting.count


def thin_sd15() -> StableDiffusion1:
    """SD 1.5 with all its layers, each with few channels: as many operations."""
    narrow = {"block_out_channels": (32, 32, 32, 32), "cross_attention_dim": 64, "attention_head_dim": 8}
    unet = UNet2DConditionModel(sample_size=64, **narrow)
    tokenizer = CLIPTokenizer.from_pretrained(base_folder() / "tokenizer")
    encoder = text_encoder(64, 12, "quick_gelu")
    return StableDiffusion1(Parts(Path(), unet.eval(), NoVae(), [encoder], [tokenizer], (None,), schedule("epsilon")))


def test_a_step_of_sd15_is_at_most_5500_operations(shown: list[Shown]) -> None:
    """UNet and text encoder, bf16, batch 1: about as many kernels are started on a GPU. It is 11,000 without."""

    def count(**train: Any) -> int:
        options = replace(OPTIONS, mixed_precision="bf16", masked_loss=False, gradient_accumulation_steps=1, **train)
        data = replace(DATA, train_batch_size=1)
        config = RunConfig(data=data, network=NetworkOptions(network_dim=16, network_alpha=8.0), train=options)
        items = [replace(one.item, keys=("x",)) for one in shown]
        return operations(
            Trainer(config, model, Dataset(items, {"x": (torch.randn(4, 16, 16), torch.zeros(4, 16, 16))}))
        )

    model = thin_sd15()

    few = count()
    assert 3000 < few <= 5500
    left_out = {name: count(speedups_off=(name,)) for name in ("buffers", "casts")}
    assert left_out["buffers"] > few + 3000  # AdamW and clipping for each of 528 matrices
    assert left_out["casts"] > few + 1000  # of each matrix, forward and backward


def test_without_the_techniques_the_training_is_the_same(shown: list[Shown], monkeypatch: pytest.MonkeyPatch) -> None:
    plain = steps(new(shown, monkeypatch, True, speedups_off=("buffers", "casts", "sums")), 4)
    assert steps(new(shown, monkeypatch, True), 4) == pytest.approx(plain, rel=1e-5)

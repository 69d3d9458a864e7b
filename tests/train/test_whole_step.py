"""Whole steps of the trainer against the same steps written out by hand: what the parts are wired to.

Everything is on that changes a step: two micro-batches, both looks of each picture, masks, min-SNR, noise offset,
clipping, weight decay, three kinds of dropout, shuffled and dropped captions, a rate for each root, a schedule.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from lora_train.config import DataOptions, NetworkOptions, RunConfig, TrainOptions
from lora_train.data.buckets import Placement
from lora_train.data.items import Item
from lora_train.data.scan import Picture
from lora_train.data.training_set import Dataset
from lora_train.models.base import Frame
from lora_train.networks.inject import targets
from lora_train.train.loop import Callbacks, StepReport, Trainer
from tests.train.smallest import open_tiny

STEPS, WARMUP, MICRO, BATCH = 3, 2, 2, 2
"""Steps that are taken (of 8), of the warm-up; micro-batches in a step, pictures in each."""
SEED = 7
RATES = {"lora_unet": 2e-3, "lora_te1": 5e-4, "lora_te2": 1e-3}
OPTIONS = TrainOptions(
    max_train_steps=8,
    lr_warmup_steps=WARMUP,
    lr_scheduler="cosine",
    gradient_accumulation_steps=MICRO,
    unet_lr=RATES["lora_unet"],
    text_encoder_lr=1.0,  # both have their own
    text_encoder_lr1=RATES["lora_te1"],
    text_encoder_lr2=RATES["lora_te2"],
    min_snr_gamma=0.5,
    noise_offset=0.3,
    max_grad_norm=0.001,
    weight_decay=0.7,
    masked_loss=True,
    mixed_precision="fp32",
    device="cpu",
    seed=SEED,
)
NETWORK = NetworkOptions(network_dim=4, network_alpha=2.0, network_dropout=0.3, rank_dropout=0.2, module_dropout=0.15)
DATA = DataOptions(
    train_batch_size=BATCH, shuffle_caption=True, keep_tokens=2, caption_dropout_rate=0.2, tag="sks", resolution=64
)
PLACEMENT = Placement(bucket=(64, 32), scaled=(100, 32), left=7, top=0)
"""Of pictures of 100 x 32: 7 columns are left out on the left, and 29 on the right."""


def generator(name: str, position: int) -> torch.Generator:
    """Each draw has a generator of its own, made of seed, name and position."""
    return torch.Generator().manual_seed(_number(name, position))


def _number(name: str, position: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{SEED}/{name}/{position}".encode()).digest()[:8], "little") >> 1


@dataclass
class Shown:
    """What is known of one picture, for the step by hand."""

    item: Item
    latents: list[tuple[torch.Tensor, torch.Tensor]]
    """Mean and spread, as it is and flipped; the two have nothing to do with each other here."""
    mask: np.ndarray


@pytest.fixture
def shown(tmp_path: Path) -> list[Shown]:
    draw, pictures = torch.Generator().manual_seed(1), []
    for number in range(4):
        mask = np.random.default_rng(number).integers(0, 256, (32, 100), dtype=np.uint8)
        Image.fromarray(mask).save(tmp_path / f"{number}.mask.png")
        caption = f"one {number}, two, sks, four, five, six"
        picture = Picture(tmp_path / f"{number}.png", 100, 32, caption, "", 1, tmp_path / f"{number}.mask.png")
        item = Item(picture, PLACEMENT, (f"{number}", f"{number} flipped"))
        means = [torch.randn(4, 4, 8, generator=draw) for _ in range(2)]
        pictures.append(Shown(item, [(mean, torch.rand(mean.shape, generator=draw)) for mean in means], mask))
    return pictures


def dataset_of(shown: list[Shown]) -> Dataset:
    latents = {key: values for one in shown for key, values in zip(one.item.keys, one.latents)}
    return Dataset([one.item for one in shown], latents)


def make_trainer(model: Any, shown: list[Shown], **train: Any) -> Trainer:
    config = RunConfig(data=DATA, network=NETWORK, train=replace(OPTIONS, **train))
    trainer = Trainer(config, model, dataset_of(shown))
    draw = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for network in trainer.network.named().values():
            network.up.normal_(std=0.05, generator=draw)  # from 0 only half of the weights would have a gradient
    return trainer


class ByHand:
    """LoRA, its dropout, AdamW and the step, without anything of the trainer's."""

    def __init__(self, model: Any, shown: list[Shown], weights: dict[str, tuple[torch.Tensor, torch.Tensor]]) -> None:
        self.model, self.shown = model, shown
        self.weights = {
            f"{name}/{part}": value.detach().clone().requires_grad_()
            for name, pair in weights.items()
            for part, value in zip(("down", "up"), pair)
        }
        self.first = {name: torch.zeros_like(value) for name, value in self.weights.items()}
        self.second = {name: torch.zeros_like(value) for name, value in self.weights.items()}
        self.count = dict.fromkeys(self.weights, 0)
        self.met = set[str]()
        """What happened by chance, since a comparison says nothing of what never did."""

    @contextmanager
    def attached(self, position: int) -> Iterator[None]:
        """LoRA on every module; dropout as kohya has it: module, then neurons, then whole ranks of a picture."""

        def hook(name: str) -> Callable[..., torch.Tensor]:
            down, up = self.weights[f"{name}/down"], self.weights[f"{name}/up"]

            def add(base: nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor) -> torch.Tensor:
                draw, linear = generator(f"dropout/{name}", position), isinstance(base, nn.Linear)
                if torch.rand((), generator=draw) < 0.15:
                    self.met.add("a module left out")
                    return output
                hidden = F.linear(inputs[0], down) if linear else F.conv2d(inputs[0], down)
                hidden = hidden * (torch.rand(hidden.shape, generator=draw) >= 0.3) / 0.7
                shape = [len(hidden), *[1] * (hidden.ndim - 2), 4] if linear else [len(hidden), 4, 1, 1]
                hidden = hidden * (torch.rand(shape, generator=draw) >= 0.2) / 0.8
                return output + 2.0 / 4 * (F.linear(hidden, up) if linear else F.conv2d(hidden, up))

            return add

        handles = [
            module.register_forward_hook(hook(name))
            for name, module in targets(self.model).items()
            if f"{name}/down" in self.weights
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def captions(self, batch: list[Shown], position: int) -> list[str]:
        rng, found = random.Random(_number("captions", position)), []
        for one in batch:
            if rng.random() < 0.2:
                found.append("")
                self.met.add("a caption left out")
                continue
            first, second, tag, *rest = one.item.picture.caption.split(", ")
            rng.shuffle(rest)
            found.append(", ".join([tag, first, second, *rest]))
        return found

    def loss(self, batch: list[Shown], position: int, prediction: str) -> torch.Tensor:
        """The mean loss of one micro-batch."""
        rng = random.Random(_number("flip", position))
        flips = [rng.choice(range(2)) for _ in batch]
        self.met |= {"flipped" if flip else "not flipped" for flip in flips}
        means, stds = (torch.stack([one.latents[f][i] for one, f in zip(batch, flips)]) for i in range(2))
        x = 0.13025 * (means + stds * torch.randn(means.shape, generator=generator("latents", position)))
        draw = generator("noise", position)
        noise = torch.randn(x.shape, generator=draw)
        noise = noise + 0.3 * torch.randn((len(batch), 4, 1, 1), generator=draw)
        t = torch.randint(0, 1000, (len(batch),), generator=generator("timesteps", position))
        betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
        a = torch.cumprod(1 - betas, 0)[t].view(-1, 1, 1, 1)
        snr = (a / (1 - a)).flatten()
        capped = torch.minimum(snr, torch.tensor(0.5))
        if prediction == "epsilon":
            target, weight = noise, capped / snr
        else:
            target, weight = a.sqrt() * noise - (1 - a).sqrt() * x, capped / (snr + 1)
        masks = []
        for one, flip in zip(batch, flips):
            cut = torch.from_numpy(one.mask[:, 7:71].astype(np.float32)) / 255
            cut = cut.flip(1) if flip else cut
            masks.append(cut.reshape(4, 8, 8, 8).mean((1, 3))[None])
        frames = [Frame((100, 32), (29 if flip else 7, 0), (64, 32)) for flip in flips]
        with self.attached(position):
            text = self.model.encode_text(self.captions(batch, position))
            noisy = a.sqrt() * x + (1 - a).sqrt() * noise
            predicted = self.model.predict(noisy, t, {**text, **self.model.extra_inputs(frames)})
        error = torch.stack(masks) * (predicted - target) ** 2
        return (weight * error.mean((1, 2, 3))).mean()

    def step(self, number: int, prediction: str) -> dict[str, Any]:
        """One step of the optimizer (`number` from 0); returns what it must report."""
        order, rng = list(range(4)), random.Random(f"{SEED}/order/{number}")  # a step is an epoch here
        rng.shuffle(order)
        epoch = [order[:BATCH], order[BATCH:]]
        rng.shuffle(epoch)
        losses = [
            self.loss([self.shown[i] for i in batch], number * MICRO + micro, prediction)
            for micro, batch in enumerate(epoch)
        ]
        total = torch.stack(losses).mean()
        found = torch.autograd.grad(total, list(self.weights.values()), allow_unused=True)
        gradients = {name: value for name, value in zip(self.weights, found) if value is not None}
        norm = math.sqrt(sum(float((value.double() ** 2).sum()) for value in gradients.values()))
        factor = (number + 1) / WARMUP if number < WARMUP else self._cosine(number)
        with torch.no_grad():
            for name, gradient in gradients.items():
                self._adamw(name, gradient * min(1.0, 0.001 / norm), factor)
        return {
            "loss": float(total.detach()),
            "norm": norm,
            "rates": {root: rate * factor for root, rate in RATES.items()},
        }

    @staticmethod
    def _cosine(number: int) -> float:
        return 0.5 * (1 + math.cos(math.pi * (number - WARMUP) / (8 - WARMUP)))

    def _adamw(self, name: str, gradient: torch.Tensor, factor: float) -> None:
        """Loshchilov and Hutter 2019, algorithm 2."""
        rate = next(rate for root, rate in RATES.items() if name.startswith(root + "_")) * factor
        self.count[name] += 1
        self.first[name] = 0.9 * self.first[name] + 0.1 * gradient
        self.second[name] = 0.999 * self.second[name] + 0.001 * gradient**2
        mean = self.first[name] / (1 - 0.9 ** self.count[name])
        spread = (self.second[name] / (1 - 0.999 ** self.count[name])).sqrt() + 1e-8
        self.weights[name] -= rate * (mean / spread + 0.7 * self.weights[name])


def pairs(trainer: Trainer) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    return {name: (network.down, network.up) for name, network in trainer.network.named().items()}


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_three_steps_are_those_written_out_by_hand(shown: list[Shown], prediction: str) -> None:
    model = open_tiny(prediction)
    trainer = make_trainer(model, shown)
    hand = ByHand(model, shown, pairs(trainer))
    assert {name.split("_", 2)[1] for name in hand.weights} == {"unet", "te1", "te2"}
    reports: list[StepReport] = []
    smoothed = None
    trainer.callbacks = Callbacks(reports.append, stopped=lambda: len(reports) > number)
    for number in range(STEPS):
        expected = hand.step(number, prediction)
        assert trainer.run() == number + 1
        trainer.network.detach()
        report = reports[-1]
        assert report.loss == pytest.approx(expected["loss"], rel=1e-4)
        assert report.grad_norm == pytest.approx(expected["norm"], rel=1e-3) and report.grad_norm > 0.001
        assert report.learning_rates == pytest.approx(expected["rates"])
        smoothed = expected["loss"] if smoothed is None else 0.98 * smoothed + 0.02 * expected["loss"]
        assert (report.smoothed, report.epoch) == (pytest.approx(smoothed, rel=1e-4), number + 1)
        compare(trainer, hand, number)
    assert hand.met == {"a module left out", "a caption left out", "flipped", "not flipped"}


def compare(trainer: Trainer, hand: ByHand, number: int) -> None:
    """Weights and the optimizer's means of gradients, which show what a rate or a norm would hide."""
    for name, pair in pairs(trainer).items():
        for part, value in zip(("down", "up"), pair):
            ours, where = hand.weights[f"{name}/{part}"], f"{name}/{part} after step {number + 1}"
            mean = trainer.optimizer.state.get(value, {}).get("exp_avg", torch.zeros(()))
            theirs = hand.first[f"{name}/{part}"]
            assert torch.allclose(
                mean.expand(theirs.shape), theirs, rtol=2e-3, atol=1e-3 * float(theirs.abs().max())
            ), where
            assert torch.allclose(value, ours, atol=2e-5, rtol=1e-4), where

"""The training loop, in the order in which things happen."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from lora_train.config import RunConfig
from lora_train.config.training_methods import LOSSES, OPTIMIZERS, SAMPLINGS
from lora_train.data.items import Item
from lora_train.data.training_set import Dataset
from lora_train.errors import LoraTrainError
from lora_train.models.base import BaseModel, Conditioning
from lora_train.models.names import UNET
from lora_train.models.storing import store_base
from lora_train.networks.inject import NetworkSet
from lora_train.pictures.captions import vary, without_tag
from lora_train.records.families import FAMILIES
from lora_train.train.in_use import InUse
from lora_train.train.network import build_network, dropping, merge_base_weights, parameter_groups
from lora_train.train.noises import draw_noise, input_noise
from lora_train.train.randomness import Randomness
from lora_train.train.schedule import lr_factor
from lora_train.train.state import read_state, write_state
from lora_train.train.step import BaseTerm, Draw, Row, backward
from lora_train.train.text_states import TextStates
from lora_train.train.weightings import weight_at

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
SMOOTHING = 0.98
"""Weight of the previous steps in the smoothed loss."""


@dataclass(frozen=True)
class StepReport:
    """The results of one optimizer step."""

    step: int
    """Steps done, this one included."""
    of: int
    """Steps in the whole training."""
    epoch: int
    loss: float
    smoothed: float
    grad_norm: float
    learning_rates: dict[str, float]
    pictures_per_second: float
    seconds_left: float


@dataclass
class Callbacks:
    """Functions that the loop calls; each is optional."""

    report: Callable[[StepReport], None] = lambda report: None
    save: Callable[[int], None] = lambda step: None
    state: Callable[[int], None] = lambda step: None
    """Called when the state should be saved: every few minutes, and when the run is stopped."""
    preview: Callable[[int], None] = lambda step: None
    stopped: Callable[[], bool] = lambda: False


@dataclass
class Trainer:
    """One run on one device. `config` has all automatic choices filled in.

    `run` trains until the last step or until `callbacks.stopped()`, and leaves the networks attached.
    """

    config: RunConfig
    model: BaseModel
    dataset: Dataset
    callbacks: Callbacks = field(default_factory=Callbacks)
    steps_done: int = 0
    epoch: int = 0
    smoothed: float = math.nan
    trigger: str = ""
    """The tag, or the word that stands for it in captions that contain it already."""

    def __post_init__(self) -> None:
        options, network = self.config.train, self.config.network
        self.random = Randomness(options.seed)
        self.device = torch.device(options.device)
        self.dtype = DTYPES[options.mixed_precision]
        assert network.network_dim and network.network_alpha
        # before the base is cast: merging, decomposing and measuring use the precision of its file
        merged = merge_base_weights(network, self.model)
        denoiser = FAMILIES[self.model.family].denoiser.prefix
        self.rates = learning_rates(self.config, self.model.text_prefixes, denoiser)
        self.built = build_network(self.config, self.model, tuple(self.rates), self.random.torch("weights"))
        self.network: NetworkSet = self.built.network
        stored = store_base(self.model, options.base_precision, self.dtype, self.device)
        self.notes = (*merged, *self.built.notes, *stored)
        self.model.to(self.device, self.dtype)
        self.network.to(self.device)
        if options.gradient_checkpointing:
            self.model.checkpoint_activations(options.checkpointing_share or 1.0)
        half = self.dtype != torch.float32
        # torch 2.1 refuses fp32 on the CPU even where autocast is not enabled
        self.autocast = torch.autocast(self.device.type, self.dtype if half else None, enabled=half)
        self._states, self._base_states = TextStates(), TextStates()
        self.optimizer = OPTIMIZERS.of(self.config)(self._groups(), self.config)
        self.weights = InUse(self.optimizer, self.network.parameters())
        self.scaler = _scaler(self.device, enabled=self.dtype == torch.float16)

    @property
    def batches_per_epoch(self) -> int:
        """Micro-batches in one epoch."""
        return self.dataset.batches_per_epoch(self.config.data.batch_size)

    @property
    def steps_per_epoch(self) -> int:
        """Steps in one epoch. As with accelerate, the last one may have fewer micro-batches."""
        return math.ceil(self.batches_per_epoch / self.config.train.gradient_accumulation_steps)

    def run(self) -> int:
        """Train; returns the number of steps done. Raises LoraTrainError when the loss is not a number."""
        options = self.config.train
        assert options.max_train_steps
        optimizer = self.optimizer
        steps = self._steps(self.steps_done)
        self.network.attach()
        if self.steps_done == 0:
            self.callbacks.preview(0)
        self.weights.to_train()
        pace = Pace(self.steps_done)
        parameters = list(self.network.parameters())
        while self.steps_done < options.max_train_steps:
            if self.callbacks.stopped():
                self.callbacks.state(self.steps_done)
                break
            self._stop_text_encoders()
            factor = lr_factor(self.config, self.steps_done)
            for group in optimizer.param_groups:
                group["lr"] = group["base_lr"] * factor
            losses, shown = [], 0
            for micro, items in enumerate(next(steps)):
                position = self.steps_done * options.gradient_accumulation_steps + micro
                losses.append(self._micro_batch(items, position))
                shown += len(items)
            loss = float(torch.stack(losses).mean())
            self._require_number(loss, items)
            norm = self._update(parameters)
            self.steps_done += 1
            first = math.isnan(self.smoothed)
            self.smoothed = loss if first else SMOOTHING * self.smoothed + (1 - SMOOTHING) * loss
            self._report(loss, norm, shown, pace.seconds_per_step(self.steps_done))
            self._save_and_preview(options.max_train_steps)
            if pace.due(self.config.save.save_state_every_n_minutes):
                self.callbacks.state(self.steps_done)
        self.weights.to_use()
        return self.steps_done

    def _update(self, parameters: list[torch.nn.Parameter]) -> float:
        """One step of the optimizer; returns the norm of the gradient before it was clipped."""
        norm = 0.0
        if any(parameter.grad is not None for parameter in parameters):
            self.scaler.unscale_(self.optimizer)
            limit = self.config.train.max_grad_norm or math.inf
            norm = float(torch.nn.utils.clip_grad_norm_(parameters, limit))
            self.scaler.step(self.optimizer)
            self.scaler.update()
        if self.config.network.scale_weight_norms is not None:
            self.network.limit_norms(self.config.network.scale_weight_norms)
        self.optimizer.zero_grad(set_to_none=True)
        return norm

    def _groups(self) -> list[dict[str, Any]]:
        return parameter_groups(self.built, self.config.network, self.rates)

    def _steps(self, skip: int) -> Iterator[list[list[Item]]]:
        """The micro-batches of each step, endlessly, from step `skip` on; `self.epoch` counts the epochs begun."""
        data, size = self.config.data, self.config.train.gradient_accumulation_steps
        self.epoch, skip = divmod(skip, self.steps_per_epoch)
        while True:
            batches = self.dataset.epoch(data.batch_size, f"{self.config.train.seed}/order/{self.epoch}")
            self.epoch += 1
            for start in range(skip * size, len(batches), size):
                yield [[self.dataset.items[i] for i in batch] for batch in batches[start : start + size]]
            skip = 0

    def write_state(self, path: Path) -> None:
        """Save what `read_state` needs to continue. Raises LoraTrainError when it cannot be written."""
        numbers = {"step": self.steps_done, "smoothed": self.smoothed, "data": self.dataset.fingerprint()}
        with self.weights.trained():
            write_state(path, self.network, self.optimizer, numbers | {"scaler": self.scaler.state_dict()})

    def read_state(self, path: Path) -> bool:
        """Continue from a saved state; returns whether the pictures and captions are unchanged.

        Raises LoraTrainError when the state cannot be used.
        """
        numbers = read_state(path, self.network, self.optimizer)
        self.network.to(self.device)
        self.steps_done, self.smoothed = int(numbers["step"]), float(numbers["smoothed"])
        if numbers["scaler"]:
            self.scaler.load_state_dict(numbers["scaler"])
        return bool(numbers["data"] == self.dataset.fingerprint())

    def _micro_batch(self, items: list[Item], position: int) -> torch.Tensor:
        """One forward and backward; returns the mean loss (a scalar tensor)."""
        options = self.config.train
        looks = self._looks(items, position)
        x = self._latents(items, looks, position)
        draw = self._draw(x, position)
        accumulation = options.gradient_accumulation_steps

        def learn(row: Row, draw: Draw) -> torch.Tensor:
            return backward(
                self.model,
                self.network,
                [row],
                draw,
                self._encode,
                lambda loss: self.scaler.scale(loss / accumulation),
                self.autocast,
                self._cost,
            ).mean()

        with self.network.dropping(dropping(self.config.network, self.random, position)):
            extra, mask = self._extra(items, looks), self._masks(items, looks)
            loss = learn(Row(x, self._captions(items, position), mask=mask, extra=extra), draw)
            some = items[: self._preserved(len(items), position)]
            if some:
                captions = [without_tag(self.trigger, item.picture.caption) for item in some]
                x, extra = x[: len(some)], self._extra(some, looks)
                own = BaseTerm(1.0, x, captions)
                learn(Row(x, captions, extra=extra, terms=(own,)), draw.of(len(some)))
        return loss

    def _draw(self, x: torch.Tensor, position: int) -> Draw:
        """Noise, timesteps and weights of a micro-batch with the latents `x`."""
        noise = draw_noise(x, self.config, self.random.torch("noise", position))
        seen = input_noise(noise, x, self.config, self.random.torch("input noise", position))
        t = SAMPLINGS.of(self.config)(len(x), self.random.torch("timesteps", position), self.model, self.config)
        weight = weight_at(t, self.model, self.config)
        return Draw(noise.to(self.device), t, weight, None if seen is noise else seen.to(self.device))

    def _cost(self, predicted: torch.Tensor, target: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """The run's loss at every position."""
        return LOSSES.of(self.config)(predicted, target, t, self.model, self.config)  # type: ignore[no-any-return]

    def _preserved(self, pictures: int, position: int) -> int:
        """How many of a batch's pictures are also shown without the tag, to learn the base's own prediction."""
        share = self.config.train.preserve or 0.0
        return int(share * pictures + self.random.python("preserve", position).random())

    def _looks(self, items: list[Item], position: int) -> list[int]:
        """Which latents of each picture are used: 0, or 1 for the flipped ones, drawn at random."""
        choice = self.random.python("flip", position)
        return [choice.choice(range(len(item.keys))) for item in items]

    def _extra(self, items: list[Item], looks: list[int]) -> Conditioning:
        """The model's inputs about the pictures besides their captions."""
        return self.model.extra_inputs([item.frame(flipped=look == 1) for item, look in zip(items, looks)])

    def _masks(self, items: list[Item], looks: list[int]) -> torch.Tensor | None:
        """The masks (B, 1, h, w) that weight the loss; None without masked loss."""
        if not self.config.train.masked_loss:
            return None
        masks = [self.dataset.mask(item, flipped=look == 1) for item, look in zip(items, looks)]
        return torch.stack(masks).to(self.device)

    def _latents(self, items: list[Item], looks: list[int], position: int) -> torch.Tensor:
        """Scaled latents (B, C, h, w), sampled from the posterior."""
        stored = [self.dataset.latents[item.keys[look]] for item, look in zip(items, looks)]
        mean = torch.stack([mean for mean, _ in stored])
        std = torch.stack([std for _, std in stored])
        sampled = mean + std * torch.randn(mean.shape, generator=self.random.torch("latents", position))
        return self.model.scale_latents(sampled).to(self.device)

    def _captions(self, items: list[Item], position: int) -> list[str]:
        data = self.config.data
        rng = self.random.python("captions", position)
        return [
            vary(item.picture.caption, rng, data.shuffle_caption, data.keep_tokens, data.caption_dropout_rate, data.tag)
            for item in items
        ]

    def _encode(self, captions: Any) -> Conditioning:
        """Text conditioning; kept by caption while the text encoder stays as it is."""
        clip_skip = self.config.model.clip_skip
        if self._text_encoders_trained:
            return self.model.encode_text(captions, clip_skip)
        states = self._states if self.network.multiplier else self._base_states
        with torch.no_grad(), self.network.dropping(None):
            return states.of(captions, lambda text: self.model.encode_text([text], clip_skip), self.device)

    @property
    def _text_encoders_trained(self) -> bool:
        last = self.config.train.stop_text_encoder_training
        trained = set(self.model.text_prefixes) & self.rates.keys()
        return bool(trained) and (last is None or self.steps_done < last)

    def _stop_text_encoders(self) -> None:
        """Freeze the text encoders' networks after their last step (their states are then computed once)."""
        if not self._text_encoders_trained:
            for prefix in self.model.text_prefixes:
                for parameter in self.network.parameters_of(prefix):
                    parameter.requires_grad_(False)

    def _require_number(self, loss: float, items: list[Item]) -> None:
        if math.isfinite(loss):
            return
        named = ", ".join(item.picture.path.name for item in items[:4])
        raise LoraTrainError(
            f"the loss is no longer a number, at step {self.steps_done + 1} with {named}.",
            "train",
            "Lower the learning rate, or train in fp32 or bf16. What was saved before is still usable.",
        )

    def _report(self, loss: float, norm: float, shown: int, per_step: float) -> None:
        assert self.config.train.max_train_steps
        self.callbacks.report(
            StepReport(
                step=self.steps_done,
                of=self.config.train.max_train_steps,
                epoch=self.epoch,
                loss=loss,
                smoothed=self.smoothed,
                grad_norm=norm,
                learning_rates={group["name"]: group["lr"] for group in self.optimizer.param_groups},
                pictures_per_second=shown / per_step if per_step else 0.0,
                seconds_left=per_step * (self.config.train.max_train_steps - self.steps_done),
            )
        )

    def _save_and_preview(self, last: int) -> None:
        save, preview = self.config.save, self.config.preview
        step = self.steps_done
        if step == last:
            return
        saving = _due(step, save.save_every_n_steps) or _due(step, save.save_every_n_epochs * self.steps_per_epoch)
        showing = _due(step, preview.sample_every_n_steps)
        if saving or showing:
            with self.weights.used():
                if saving:
                    self.callbacks.save(step)
                if showing:
                    self.callbacks.preview(step)


class Pace:
    """The speed of the training, and the time of the last saved state."""

    def __init__(self, step: int) -> None:
        self._first, self._started = step, time.monotonic()
        self._saved = self._started

    def seconds_per_step(self, step: int) -> float:
        """Mean since the start or the resume."""
        return (time.monotonic() - self._started) / max(1, step - self._first)

    def due(self, minutes: float) -> bool:
        """Whether `minutes` have passed since this was last true; never for 0."""
        now = time.monotonic()
        if not minutes or now - self._saved < minutes * 60:
            return False
        self._saved = now
        return True


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


def learning_rates(config: RunConfig, text_prefixes: Sequence[str], denoiser: str = UNET) -> dict[str, float]:
    """The learning rate of each root whose networks are trained; roots with a rate of 0 are left out.

    `text_prefixes` are the model's text encoders; if there are several, the first two can have their own rates.
    """
    network, train = config.network, config.train
    several = len(text_prefixes) > 1
    own = (train.text_encoder_lr1, train.text_encoder_lr2, *[None] * len(text_prefixes)) if several else (None,)
    rates = {}
    if not network.network_train_text_encoder_only:
        rates[denoiser] = train.unet_lr
    if not network.network_train_unet_only:
        rates |= {prefix: train.text_encoder_lr if rate is None else rate for prefix, rate in zip(text_prefixes, own)}
    return {prefix: rate for prefix, rate in rates.items() if rate}


def _scaler(device: torch.device, enabled: bool) -> Any:
    """A loss scaler, which fp16 needs; torch before 2.3 has it for CUDA only."""
    if hasattr(torch.amp, "GradScaler"):
        return torch.amp.GradScaler(device.type, enabled=enabled)
    return torch.cuda.amp.GradScaler(enabled=enabled)

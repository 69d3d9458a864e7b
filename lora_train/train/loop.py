"""The training loop, in the order in which things happen."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lora_train.config import RunConfig
from lora_train.config.training_methods import LOSSES, OPTIMIZERS
from lora_train.data.items import Item
from lora_train.data.training_set import Dataset
from lora_train.errors import LoraTrainError
from lora_train.memory import forget, give_back, is_out_of_memory
from lora_train.models.base import BaseModel
from lora_train.models.storing import store_base
from lora_train.networks.inject import NetworkSet
from lora_train.records.families import FAMILIES
from lora_train.train.encoding import Texts
from lora_train.train.fast_math import fast_math
from lora_train.train.flat import Flat
from lora_train.train.in_use import InUse
from lora_train.train.network import build_network, dropping, merge_base_weights, parameter_groups
from lora_train.train.order import Order
from lora_train.train.pace import Pace
from lora_train.train.picture_losses import PictureLosses
from lora_train.train.randomness import Randomness
from lora_train.train.rates import learning_rates
from lora_train.train.recovery import eased, undone_by_failure
from lora_train.train.rows import Rows
from lora_train.train.scaling import loss_scaler, restarted
from lora_train.train.schedule import lr_factor
from lora_train.train.state import read_state, write_state
from lora_train.train.step import Draw, Row, backward
from lora_train.train.unread import Taken, Unread
from lora_train.train.validation import Lowest, Validation, Validator

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
    """Of the gradient before it was clipped; 0 where the step was skipped."""
    learning_rates: dict[str, float]
    pictures_per_second: float
    seconds_left: float
    validation: dict[str, float] = field(default_factory=dict)
    """The loss on the pictures that are held out, where it was measured after this step; see `Validation.by_name`."""
    skipped: bool = False
    """fp16: the scaled gradient was too large for its numbers, so that the weights did not change and the scale was
    halved. Usual in the first steps."""


@dataclass
class Callbacks:
    """Functions that the loop calls; each is optional."""

    report: Callable[[StepReport], None] = lambda report: None
    save: Callable[[int], None] = lambda step: None
    state: Callable[[int], None] = lambda step: None
    """Called when the state should be saved: every few minutes, and when the run is stopped."""
    preview: Callable[[int], None] = lambda step: None
    validated: Callable[[Validation, bool], None] = lambda validation, lowest: None
    """Called with each measurement on the pictures that are held out, and whether it is the lowest so far; then the
    result's weights are in use."""
    eased: Callable[[str], None] = lambda text: None
    """Called when memory ran out and the trainer's `config` has changed so that it needs less; with what a person
    should know."""
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
        self.order = Order(self.dataset, self.config.data.batch_size, options.gradient_accumulation_steps, options.seed)
        self.rows = Rows(self.config, self.model, self.dataset, self.order, self.random, self.device, self.trigger)
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
        off = options.speedups_off
        if self.device.type == "cuda" and "channels-last" not in off:
            nn.Module.to(self.model.roots()[denoiser], memory_format=torch.channels_last)
        self.network.to(self.device)
        self.network.joined = "sums" not in off
        if options.gradient_checkpointing:
            self.model.checkpoint_activations(options.checkpointing_share or 1.0)
        # the base itself is in half precision, and its norms compute in fp32 inside; with fp16 they return it as well
        half = self.dtype == torch.float16 or (self.dtype == torch.bfloat16 and "half" in off)
        # torch 2.1 refuses fp32 on the CPU even where autocast is not enabled
        self.autocast = torch.autocast(self.device.type, self.dtype if half else None, enabled=half)
        self.texts = Texts(
            self.config,
            self.model,
            self.network,
            self.rows,
            self.order,
            self.device,
            self.autocast,
            frozenset(self.rates),
        )
        groups = self._groups()
        method = OPTIMIZERS.of(self.config)
        self.flat = Flat(groups, method.elementwise and not network.module_dropout and "buffers" not in off)
        self.cast_to = torch.float32 if "casts" in off else self.dtype
        self.optimizer = method(groups, self.config)
        self.weights = InUse(self.optimizer, self.network.parameters())
        self.scaler = loss_scaler(self.device, enabled=self.dtype == torch.float16)
        self.validator = Validator(self.config, self.model, self.dataset, self.device, self.texts.encode)
        self.lowest, self.picture_losses = Lowest(), PictureLosses()
        self._unread = Unread(self._read, late=int(self.device.type == "cuda" and "late-loss" not in off))

    @property
    def batches_per_epoch(self) -> int:
        """Batches in one epoch."""
        return self.order.batches_per_epoch

    def run(self) -> int:
        """Train; returns the number of steps done. Raises LoraTrainError when the loss is not a number."""
        with fast_math(self.config.train, self.device):
            return self._run()

    def _run(self) -> int:
        options = self.config.train
        assert options.max_train_steps
        self.network.attach()
        self.texts.begin(self.steps_done)
        if self.steps_done == 0:
            self._validate(0)
            self.callbacks.preview(0)
        self.weights.to_train()
        self._pace = Pace(self.steps_done)
        while self.steps_done < options.max_train_steps:
            if self.callbacks.stopped():
                self._unread.read_all()
                self.callbacks.state(self.steps_done)
                break
            self.texts.begin(self.steps_done)
            factor = lr_factor(self.config, self.steps_done)
            for group in self.optimizer.param_groups:
                group["lr"] = group["base_lr"] * factor
            batches = self.order.batches(self.steps_done)
            self.epoch = self.order.epoch_of(self.steps_done) + 1
            taken = self._step(batches)
            self.steps_done += 1
            self.texts.step = self.steps_done
            found = self._validate(self.steps_done)
            self._unread.add(replace(taken, validation=found) if found else taken)
            self._save_and_preview(options.max_train_steps)
            if self._pace.due(self.config.save.save_state_every_n_minutes):
                self._unread.read_all()
                self.callbacks.state(self.steps_done)
        self._unread.read_all()
        self.weights.to_use()
        return self.steps_done

    def _step(self, batches: list[list[Item]]) -> Taken:
        """One step of the optimizer.

        Where memory runs out, the same step is computed again with less: its draws are functions of its number.
        Raises LoraTrainError when nothing is left to try.
        """
        first = self.steps_done * self.config.train.gradient_accumulation_steps
        while True:
            try:
                found = [self._batch(items, first + number) for number, items in enumerate(batches)]
                losses, times = [losses for losses, _ in found], [times for _, times in found]
                return Taken(
                    step=self.steps_done + 1,
                    epoch=self.epoch,
                    loss=torch.stack([one.mean() for one in losses]).mean(),
                    norm=self._update(),
                    learning_rates={group["name"]: group["lr"] for group in self.optimizer.param_groups},
                    pictures=[item.picture for items in batches for item in items],
                    losses=torch.cat(losses),
                    times=torch.cat(times),
                )
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                forget(error)
            self._ease(max(map(len, batches)))

    def _ease(self, pictures: int) -> None:
        """Free what can be freed, and compute from now on with less memory. Raises LoraTrainError."""
        self.optimizer.zero_grad(set_to_none=True)
        self.flat.forget_gradients()
        self.scaler = restarted(self.scaler, self.device)
        give_back()
        before, now = self.config.train, eased(self.config, pictures)
        self.config = self.rows.config = self.validator.config = now.config
        train = self.config.train
        if train.gradient_checkpointing:
            self.model.checkpoint_activations(train.checkpointing_share or 1.0)
        if train.base_precision != before.base_precision:
            store_base(self.model, train.base_precision, self.dtype, self.device)
        text = f"There was not enough memory for step {self.steps_done + 1}. It is repeated {now.what}."
        self.callbacks.eased(text)

    def _update(self) -> torch.Tensor:
        """One step of the optimizer; returns the norm of the gradient before it was clipped."""
        norm = torch.zeros(())
        self.flat.collect()
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        if any(parameter.grad is not None for parameter in parameters):
            self.scaler.unscale_(self.optimizer)
            limit = self.config.train.max_grad_norm or math.inf
            norm = torch.nn.utils.clip_grad_norm_(parameters, limit)
            with undone_by_failure(self.optimizer, parameters), self.flat.only_with_gradient():
                self.scaler.step(self.optimizer)
            self.scaler.update()
        if self.config.network.scale_weight_norms is not None:
            self.network.limit_norms(self.config.network.scale_weight_norms)
        self.optimizer.zero_grad(set_to_none=True)
        self.flat.forget_gradients()
        return norm

    def _groups(self) -> list[dict[str, Any]]:
        return parameter_groups(self.built, self.config.network, self.rates)

    def write_state(self, path: Path) -> None:
        """Save what `read_state` needs to continue. Raises LoraTrainError when it cannot be written."""
        numbers = {"step": self.steps_done, "smoothed": self.smoothed, "data": self.dataset.fingerprint()}
        numbers |= {"lowest": asdict(self.lowest), "pictures": self.picture_losses.to_dict()}
        with self.weights.trained():
            write_state(path, self.network, self.optimizer, self.flat, numbers | {"scaler": self.scaler.state_dict()})

    def read_state(self, path: Path) -> bool:
        """Continue from a saved state; returns whether the pictures and captions are unchanged.

        Raises LoraTrainError when the state cannot be used.
        """
        numbers = read_state(path, self.network, self.optimizer, self.flat)
        self.network.to(self.device)
        self.steps_done, self.smoothed = int(numbers["step"]), float(numbers["smoothed"])
        self.lowest = Lowest(**numbers.get("lowest", {}))
        self.picture_losses = PictureLosses.from_dict(numbers.get("pictures"))
        if numbers["scaler"]:
            self.scaler.load_state_dict(numbers["scaler"])
        return bool(numbers["data"] == self.dataset.fingerprint())

    def _batch(self, items: list[Item], position: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Forward and backward of the batch at `position`; returns each picture's loss and time, (B,)."""
        rows = self.rows.of(items, position)
        losses = [self._learn(row, draw, position) for row, draw in rows]
        return losses[0], rows[0][1].t

    def _learn(self, row: Row, draw: Draw, position: int) -> torch.Tensor:
        """Forward and backward of a row, in parts of as many pictures as go through the model at once; returns each
        picture's loss (B,)."""
        options, count = self.config.train, len(row.x)
        at_once = min(options.micro_batch_size or count, count)
        losses = []
        for start in range(0, count, at_once):
            end = min(start + at_once, count)
            some = slice(start, end)
            whole = end - start == count
            share = options.gradient_accumulation_steps * count / (end - start)
            drops = dropping(self.config.network, self.random, position, None if whole else (start, end, count))
            with self.network.dropping(drops), self.flat.cast(self.cast_to):
                losses.append(
                    backward(
                        self.model,
                        self.network,
                        [row if whole else row.part(some)],
                        draw if whole else draw.part(some),
                        self.texts.encode,
                        lambda loss, share=share: self.scaler.scale(loss / share),  # type: ignore[misc]
                        self.autocast,
                        self._cost,
                    )
                )
        return torch.cat(losses)

    def _cost(self, predicted: torch.Tensor, target: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """The run's loss at every position."""
        return LOSSES.of(self.config)(predicted, target, t, self.model, self.config)  # type: ignore[no-any-return]

    def _read(self, taken: Taken) -> None:
        """Report a step. Raises LoraTrainError when its loss is not a number."""
        loss, norm = float(taken.loss), float(taken.norm)
        if not math.isfinite(loss):
            named = ", ".join(picture.path.name for picture in taken.pictures[-4:])
            raise LoraTrainError(
                f"the loss is no longer a number, at step {taken.step} with {named}.",
                "train",
                "Lower the learning rate, or train in fp32 or bf16. What was saved before is still usable.",
            )
        first = math.isnan(self.smoothed)
        self.smoothed = loss if first else SMOOTHING * self.smoothed + (1 - SMOOTHING) * loss
        self._note_pictures(taken)
        per_step = self._pace.seconds_per_step(taken.step)
        skipped = self.scaler.is_enabled() and not math.isfinite(norm)
        assert self.config.train.max_train_steps
        self.callbacks.report(
            StepReport(
                step=taken.step,
                of=self.config.train.max_train_steps,
                epoch=taken.epoch,
                loss=loss,
                smoothed=self.smoothed,
                grad_norm=0.0 if skipped else norm,
                learning_rates=taken.learning_rates,
                pictures_per_second=len(taken.pictures) / per_step if per_step else 0.0,
                seconds_left=per_step * (self.config.train.max_train_steps - taken.step),
                skipped=skipped,
                validation=taken.validation.by_name() if taken.validation else {},
            )
        )

    def _note_pictures(self, taken: Taken) -> None:
        """Take note of each picture's loss; regularisation pictures are not what is learned."""
        losses, times = taken.losses.tolist(), (taken.times / self.model.training_times).tolist()
        late = 2 * taken.step > (self.config.train.max_train_steps or 0)
        for picture, loss, time in zip(taken.pictures, losses, times):
            if not picture.reg:
                self.picture_losses.add(str(picture.path), loss / (picture.weight or 1.0), time, late)

    def _validate(self, step: int) -> Validation | None:
        """Measure the loss on the pictures that are held out, if there are any and it is due after `step`."""
        train = self.config.train
        due = step in (0, train.max_train_steps) or _due(step, train.validate_every_n_steps or 0)
        if not (self.dataset.held_out and due):
            return None
        self._unread.read_all()  # nothing is measured after a loss that is not a number
        with self.weights.used(), self.network.dropping(None), self.autocast:
            found: Validation = self.validator.measure(step)
            if not math.isfinite(found.loss):  # the loss of this step or of the next one ends the run
                return None
            self.callbacks.validated(found, self.lowest.add(found))
        return found

    def _save_and_preview(self, last: int) -> None:
        save, preview = self.config.save, self.config.preview
        step = self.steps_done
        if step == last:
            return
        each = self.order.steps_per_epoch
        saving = _due(step, save.save_every_n_steps) or _due(step, save.save_every_n_epochs * each)
        showing = _due(step, preview.sample_every_n_steps) or _due(step, preview.sample_every_n_epochs * each)
        if saving or showing:
            self._unread.read_all()  # nothing is saved after a loss that is not a number
            with self.weights.used():
                if saving:
                    self.callbacks.save(step)
                if showing:
                    self.callbacks.preview(step)


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0

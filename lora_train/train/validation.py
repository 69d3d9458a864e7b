"""The loss on pictures that are not trained on, at fixed noise and times: a curve that can be compared between steps,
runs and seeds, and that turns up where a training learns its pictures by heart."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from lora_train.config import RunConfig
from lora_train.data.items import Item
from lora_train.data.training_set import Dataset
from lora_train.models.base import BaseModel, Conditioning
from lora_train.pictures.varying import settled
from lora_train.train.losses import squared

PLACES = (0.125, 0.375, 0.625, 0.875)
"""Where the loss is measured, as shares of the training times: the middles of four bands, from fine to coarse."""


@dataclass(frozen=True)
class Validation:
    """One measurement: the mean, and the loss at each of `PLACES`."""

    step: int
    loss: float
    bands: tuple[float, ...]

    def by_name(self) -> dict[str, float]:
        """The numbers with names, as logs have them."""
        return {"loss": self.loss} | {f"at {place:.1%}": loss for place, loss in zip(PLACES, self.bands)}


@dataclass
class Validator:
    """Measures with the networks that are attached to `model`.

    The loss is the plain squared error under the picture's own caption, whatever loss, weights, masks and variation of
    captions the training has. Noise is a function of the picture's content and the time.
    """

    config: RunConfig
    model: BaseModel
    dataset: Dataset
    device: torch.device
    encode: Callable[[Sequence[str]], Conditioning]

    @torch.no_grad()
    def measure(self, step: int) -> Validation:
        """The loss now. Nothing of the training's randomness is used."""
        losses = torch.stack([self._of(item) for item in self.dataset.held_out]).double().mean(0)
        bands = [float(loss) for loss in losses]
        return Validation(step, sum(bands) / len(bands), tuple(bands))

    def _of(self, item: Item) -> torch.Tensor:
        """The loss of a picture at each place, on the CPU."""
        latents = self.model.scale_latents(self.dataset.latents[item.keys[0]][0])
        at_once = min(len(PLACES), self.config.train.micro_batch_size or self.config.data.batch_size)
        noise = torch.stack([_noise(item, place, latents) for place in PLACES])
        found = []
        for start in range(0, len(PLACES), at_once):
            some = slice(start, start + at_once)
            places = torch.tensor(PLACES[some]) * self.model.training_times
            t, e = self.model.as_times(places).to(self.device), noise[some].to(self.device)
            x = latents.expand_as(noise[some]).to(self.device)
            captions = [settled(item.picture.caption, item.picture.options(self.config.data))] * len(t)
            inputs = {**self.encode(captions), **self.model.extra_inputs([item.frame(flipped=False)] * len(t))}
            predicted = self.model.predict(self.model.noised(x, e, t), t, inputs).float()
            error = squared(predicted, self.model.target(x, e, t).float(), t)
            found.append(error.flatten(1).mean(1).cpu())
        return torch.cat(found)


def _noise(item: Item, place: float, like: torch.Tensor) -> torch.Tensor:
    digest = hashlib.sha256(f"validation/{item.content or item.keys[0]}/{place}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
    return torch.randn(like.shape, generator=generator)


@dataclass
class Lowest:
    """The lowest validation loss so far, and since when it has not been lower."""

    loss: float | None = None
    step: int = 0
    measured: list[tuple[int, float]] = field(default_factory=list)

    def add(self, validation: Validation) -> bool:
        """Whether this is the lowest of all steps; the base alone, before the first one, does not count."""
        self.measured.append((validation.step, validation.loss))
        if validation.step and (self.loss is None or validation.loss < self.loss):
            self.loss, self.step = validation.loss, validation.step
            return True
        return False

    @property
    def turned(self) -> bool:
        """Whether the last three measurements are all higher than the lowest, and rise by 1 % or more in all."""
        later = [loss for step, loss in self.measured if step > self.step]
        return self.loss is not None and len(later) >= 3 and later[-1] > 1.01 * self.loss

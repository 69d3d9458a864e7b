"""The rows of a batch (see `step`): latents, noise, timesteps, captions and masks, all drawn by its position."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from lora_train.config import RunConfig
from lora_train.config.training_methods import SAMPLINGS
from lora_train.data.items import Item
from lora_train.data.masks import in_loss
from lora_train.data.training_set import Dataset
from lora_train.device import sent
from lora_train.models.base import BaseModel, Conditioning
from lora_train.pictures.captions import without_tag
from lora_train.pictures.varying import Moment, settled, vary
from lora_train.train.noises import draw_noise, input_noise
from lora_train.train.order import Order
from lora_train.train.randomness import Randomness
from lora_train.train.step import BaseTerm, Draw, Row
from lora_train.train.weightings import weight_at


@dataclass
class Rows:
    """Makes the rows of any batch of a run. Position p is the p-th batch of the run: the same batch at the same
    position has the same rows, whatever was drawn before."""

    config: RunConfig
    model: BaseModel
    dataset: Dataset
    order: Order
    random: Randomness
    device: torch.device
    trigger: str = ""
    """The tag, or the word that stands for it in captions that contain it already."""

    def of(self, items: list[Item], position: int) -> list[tuple[Row, Draw]]:
        """The row that the network learns, and, with `train.preserve`, one whose target is the base's own prediction
        without the tag."""
        looks = self._looks(items, position)
        x = self._latents(items, looks, position)
        draw = self._draw(x, position)
        extra, mask = self._extra(items, looks), self._masks(items, looks)
        captions, weight = self.captions(items, position), self._weights(items)
        rows = [(Row(x, captions, weight=weight, mask=mask, extra=extra), draw)]
        untagged = self.untagged(items, position)
        if untagged:
            some = slice(len(untagged))
            own = BaseTerm(1.0, x[some], untagged)
            extra = self._extra(items[some], looks)
            rows.append((Row(x[some], untagged, extra=extra, terms=(own,)), draw.part(some)))
        return rows

    def captions(self, items: list[Item], position: int) -> list[str]:
        """The captions of a batch as they are shown in training."""
        rng, step = self.random.python("captions", position), position // self.config.train.gradient_accumulation_steps
        moment = Moment(self.order.epoch_of(step) + 1, step, self.config.train.max_train_steps or 1)
        pictures = [item.picture for item in items]
        return [vary(one.lines, rng, one.options(self.config.data), moment) for one in pictures]

    def untagged(self, items: list[Item], position: int) -> list[str]:
        """The captions without the tag of the first pictures: those whose base prediction is preserved."""
        share = self.config.train.preserve or 0.0
        count = int(share * len(items) + self.random.python("preserve", position).random())
        captions = [settled(item.picture.caption, self.config.data) for item in items[:count]]
        return [without_tag(self.trigger, caption) for caption in captions]

    def _draw(self, x: torch.Tensor, position: int) -> Draw:
        """Noise, timesteps and weights of a batch with the latents `x`."""
        noise = draw_noise(x, self.config, self.random.torch("noise", position))
        seen = input_noise(noise, x, self.config, self.random.torch("input noise", position))
        t = SAMPLINGS.of(self.config)(len(x), self.random.torch("timesteps", position), self.model, self.config)
        weight = weight_at(t, self.model, self.config)
        return Draw(sent(noise, self.device), t, weight, None if seen is noise else sent(seen, self.device))

    def _looks(self, items: Sequence[Item], position: int) -> list[int]:
        """Which latents of each picture are used: 0, or 1 for the flipped ones, drawn at random."""
        choice = self.random.python("flip", position)
        return [choice.choice(range(len(item.keys))) for item in items]

    def _extra(self, items: Sequence[Item], looks: Sequence[int]) -> Conditioning:
        """The model's inputs about the pictures besides their captions."""
        return self.model.extra_inputs([item.frame(flipped=look == 1) for item, look in zip(items, looks)])

    def _masks(self, items: Sequence[Item], looks: Sequence[int]) -> torch.Tensor | None:
        """The masks (B, 1, h, w) that weight the loss; None without masked loss."""
        if not self.config.train.masked_loss:
            return None
        options = self.config.train
        masks = [self.dataset.mask(item, flipped=look == 1) for item, look in zip(items, looks)]
        factors = [in_loss(mask, options.unmasked_weight, options.normalize_masked_area_loss) for mask in masks]
        return sent(torch.stack(factors), self.device)

    def _weights(self, items: Sequence[Item]) -> float | torch.Tensor:
        """The factor on each picture's loss (B,); 1 where that is all of them."""
        prior = self.config.train.prior_loss_weight
        weights = [item.picture.weight * (prior if item.picture.reg else 1.0) for item in items]
        return 1.0 if {*weights} == {1.0} else sent(torch.tensor(weights), self.device)

    def _latents(self, items: Sequence[Item], looks: Sequence[int], position: int) -> torch.Tensor:
        """Scaled latents (B, C, h, w), sampled from the posterior."""
        stored = [self.dataset.latents[item.keys[look]] for item, look in zip(items, looks)]
        mean = torch.stack([mean for mean, _ in stored])
        std = torch.stack([std for _, std in stored])
        sampled = mean + std * torch.randn(mean.shape, generator=self.random.torch("latents", position))
        return sent(self.model.scale_latents(sampled), self.device)

"""How much memory a run's step will need: counted from shapes, or estimated where torch cannot count."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace

from lora_train.config import RunConfig
from lora_train.config.planner import Means
from lora_train.config.usual import BASE_BYTES, BYTES_PER_PARAMETER, KEPT_PER_PIXEL, LARGE_BASE
from lora_train.models.base import BaseModel
from lora_train.records.families import FAMILIES
from lora_train.train.footprint import Counter, Footprint

log = logging.getLogger("lora_train")

AMPLE = 1.5
"""Where this many times the estimate is free, nothing is counted."""


@dataclass
class Predictor:
    """See `config.planner.Predict`. Each kind of step is counted once, which takes a few seconds."""

    model: BaseModel
    free: int | None = None
    _counter: Counter | None = None
    _counted: dict[tuple[int | None, float, str], Footprint] = field(default_factory=dict)
    _fails: bool = False

    def __call__(self, config: RunConfig, means: Means) -> int:
        """The bytes at the peak."""
        rough = self.estimate(config, means)
        if self._fails or (self.free is not None and rough * AMPLE < self.free):
            return rough
        try:
            one = self._of_one(config, means)
        except Exception:  # torch 2.1, or a family whose step needs values
            log.debug("a step cannot be counted", exc_info=True)
            self._fails = True
            return rough
        return replace(one, step=one.step * means.pictures).peak

    def _of_one(self, config: RunConfig, means: Means) -> Footprint:
        """The step with one picture; the activations are proportional to the pictures, and so is all else in it."""
        side = config.data.resolution or self.model.native_resolution
        side -= side % self.model.size_step
        if self._counter is None:
            self._counter = Counter(config, self.model, self._trained(config))
        key = (side, means.share, "full")
        if key not in self._counted:
            self._counted[key] = self._counter.count(1, side, side, means.share)
        stored = self._counter.base_bytes(means.base)
        return replace(self._counted[key], base=stored)

    def _trained(self, config: RunConfig) -> tuple[str, ...]:
        """The roots that get networks."""
        network = config.network
        denoiser = FAMILIES[self.model.family].denoiser.prefix
        return (
            *(() if network.network_train_text_encoder_only else (denoiser,)),
            *(() if network.network_train_unet_only else self.model.text_prefixes),
        )

    def estimate(self, config: RunConfig, means: Means) -> int:
        """By the number of weights and pixels. Measured on a GPU in bf16 (docs/performance.md): 15.7 GB for SDXL at
        1024 px, 7.3 for SD 1.5 at 512 px, batch 4."""
        denoiser = self.model.roots()[FAMILIES[self.model.family].denoiser.prefix]
        weights = sum(one.numel() for one in denoiser.parameters())
        wide = 2 if config.train.mixed_precision == "fp32" else 1
        side = config.data.resolution or self.model.native_resolution
        kept = means.pictures * side**2 * KEPT_PER_PIXEL[weights > LARGE_BASE] * (1 - 0.9 * means.share)
        saved = 0.0 if means.base == "full" else weights * (2 * wide - BASE_BYTES[means.base])
        return round(wide * (weights * BYTES_PER_PARAMETER + kept) - saved)

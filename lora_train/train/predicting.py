"""How much memory a run's step will need: counted from shapes, or estimated where torch cannot count."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace

from lora_train.config import RunConfig
from lora_train.config.planner import Means
from lora_train.config.usual import BASE_BYTES, BYTES_PER_PARAMETER, KEPT_PER_PIXEL, LARGE_BASE
from lora_train.models.base import BaseModel
from lora_train.records.families import FAMILIES
from lora_train.records.kinds import KINDS
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
    _steps: dict[float, tuple[int, Footprint]] = field(default_factory=dict)
    """By the share of blocks that are checkpointed: the side in pixels, and one picture's step."""
    _bases: dict[str, int] = field(default_factory=dict)
    _fails: bool = False

    def __call__(self, config: RunConfig, means: Means) -> int:
        """The bytes at the peak."""
        rough = self.estimate(config, means)
        ample = self.free is not None and rough * AMPLE < self.free and _is_small(config)
        if self._fails or ample:
            return rough
        try:
            return self._counted(config, means).peak
        except Exception:  # torch 2.1, or a family whose step needs values
            log.debug("a step cannot be counted", exc_info=True)
            self._fails = True
            return rough

    def _counted(self, config: RunConfig, means: Means) -> Footprint:
        """From the step with one picture: all but the weights is proportional to the pictures and to their pixels."""
        side = config.data.resolution or self.model.native_resolution
        side -= side % self.model.size_step
        if self._counter is None:
            self._counter = Counter(config, self.model, self._trained(config))
        if means.share not in self._steps:
            self._steps[means.share] = side, self._counter.count(1, side, side, means.share)
        if means.base not in self._bases:
            self._bases[means.base] = self._counter.base_bytes(means.base)
        its_side, one = self._steps[means.share]
        step = one.step * means.pictures * side**2 // its_side**2
        return replace(one, step=step, base=self._bases[means.base])

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
        weights: int = sum(one.numel() for one in denoiser.parameters())
        wide = 2 if config.train.mixed_precision == "fp32" else 1
        side = config.data.resolution or self.model.native_resolution
        kept = means.pictures * side**2 * KEPT_PER_PIXEL[weights > LARGE_BASE] * (1 - 0.9 * means.share)
        saved = 0.0 if means.base == "full" else weights * (2 * wide - BASE_BYTES[means.base])
        return round(wide * (weights * BYTES_PER_PARAMETER + kept) - saved)


def _is_small(config: RunConfig) -> bool:
    """Whether the network has few weights, as the estimate assumes."""
    network = config.network
    ranked = KINDS[network.kind].ranked and not (
        network.full_matrix or network.network_rules or network.network_weights
    )
    return ranked and max(network.network_dim or 0, network.conv_dim or 0) <= 128

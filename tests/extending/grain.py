"""An option from outside with its formula: noise with a grain, the same for 2 x 2 places, on top of the usual one.

The last line adds it; `ADDED` is there for the tests, which take it away again.
"""

from __future__ import annotations

import torch

from lora_train.config import RunConfig
from lora_train.config.extending import register
from lora_train.config.methods import Method
from lora_train.config.option import LOSS, About
from lora_train.config.table import Option
from lora_train.config.training_methods import NOISES

GRAIN = Option(
    "train",
    "grain",
    0.0,
    float,
    About("Grain", "strength of a coarse grain in the noise", LOSS, range=(0, 2), metadata="ss_grain"),
)


def grain(noise: torch.Tensor, x: torch.Tensor, generator: torch.Generator, config: RunConfig) -> torch.Tensor:
    """e + grain * z, z of half the resolution."""
    height, width = noise.shape[2:]
    coarse = torch.randn((*noise.shape[:2], height // 2, width // 2), generator=generator)
    return noise + GRAIN.of(config) * coarse.repeat_interleave(2, 2).repeat_interleave(2, 3)


ADDED = (GRAIN, (NOISES, Method("grain", "a coarse grain on top", grain, ("train.grain",))))


def add() -> None:
    """The one line."""
    register(*ADDED)

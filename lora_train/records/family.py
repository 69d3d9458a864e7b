"""What everybody must know of a family of base models without torch; the model itself is its implementation's."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

DIFFUSION, CLIP_SKIP, TWO_ENCODERS = "diffusion", "clip skip", "two encoders"

FEATURES: Mapping[str, tuple[str, str]] = {
    DIFFUSION: ("it is for Stable Diffusion's noise schedule, which this base does not have.", "Leave it out."),
    CLIP_SKIP: ("this base's text encoders always speak from one layer.", "Leave it out."),
    TWO_ENCODERS: ("this base has one text encoder.", "Give train.text_encoder_lr instead."),
}
"""What a family may have that options depend on; why such an option is refused elsewhere, and what to do instead."""


@dataclass(frozen=True)
class Latents:
    """What a picture is for the model: (channels, height / factor, width / factor)."""

    channels: int
    factor: int
    """Pixels a side for each value."""
    scale: float
    """The VAE's latents, less `shift`, times this are what the model works on; a checkpoint may say otherwise."""
    shift: float = 0.0


@dataclass(frozen=True)
class Side:
    """A part of the base that networks attach to: the denoiser, or a text encoder."""

    prefix: str
    """Its modules' names in LoRA files begin with this and an underscore."""
    component: str
    """Its name in diffusers' files and folders."""
    title: str
    """In a sentence: "second text encoder"."""
    dialects: tuple[str, ...] = ()
    """Other beginnings of dotted keys that mean it, each with its last dot: "model.diffusion_model."."""
    begins: tuple[str, ...] = ()
    """In files every path begins with one of these; what does not gets the first one in front."""
    words: frozenset[str] = frozenset()
    """The parts of its modules' paths (numbers need not be named): what splits a name with underscores. Without them a
    name that comes with underscores keeps them."""

    def spelled(self, path: str) -> str:
        """A module's path as files spell it."""
        return self.begins[0] + path if self.begins and not path.startswith(self.begins) else path


@dataclass(frozen=True)
class Blocks:
    """The denoiser's blocks as lists of one value for each count them."""

    number: Callable[[str], int | None]
    """The block of a module by its name in files; None for what lies outside of them, and for names of others."""
    mid: int
    """Blocks in the middle; of a model without sides: all."""
    side: int = 0
    """Blocks on the way down, and as many on the way up."""
    ends: int = 0
    """Blocks before the first and after the last that take part in lists of dimensions, but not in rates."""

    @property
    def total(self) -> int:
        """Length of a list with one value for each block."""
        return 2 * self.side + self.mid + 2 * self.ends


def numbered(prefix: str, lists: Mapping[str, int]) -> Blocks:
    """The blocks of a model without sides: lists of them one after the other, each by its path and its length.

    `numbered("lora_unet", {"double_blocks": 19, "single_blocks": 38})` counts `lora_unet_single_blocks_0_...` as 19.
    """
    starts, total = {}, 0
    for path, length in lists.items():
        starts[path.replace(".", "_")], total = total, total + length
    names = "|".join(sorted(map(re.escape, starts), key=len, reverse=True))
    pattern = re.compile(rf"{re.escape(prefix)}_({names})_(\d+)(?:_|$)")

    def number(name: str) -> int | None:
        found = pattern.match(name)
        return starts[found[1]] + int(found[2]) if found else None

    return Blocks(number, total)


@dataclass(frozen=True)
class Predicts:
    """What a model of the family may predict, and what its LoRAs say then."""

    name: str
    """ "epsilon", "v_prediction", "flow"."""
    version: str
    """kohya's `ss_base_model_version`."""
    architecture: str
    """`modelspec.architecture`."""
    modelspec: str = ""
    """`modelspec.prediction_type`, which is for noise and v alone; "": it is not written."""


@dataclass(frozen=True)
class Family:
    """A family of base models."""

    name: str
    title: str
    """In a sentence: "SD 1.x"."""
    opening: str
    """What recognises and opens its checkpoints, "package.module:NAME": see `models.base.Opening`."""
    latents: Latents
    denoiser: Side
    texts: tuple[Side, ...]
    """The text encoders that can be trained, in their order."""
    predictions: tuple[Predicts, ...]
    """The usual one first."""
    blocks: Blocks | None = None
    features: frozenset[str] = frozenset()
    """Of FEATURES."""
    without: Mapping[str, str] = field(default_factory=dict)
    """Why it lacks a feature, where more can be said than FEATURES do."""
    refused: Mapping[str, str] = field(default_factory=dict)
    """Other options that mean nothing for it, by their paths, and why."""
    implementation: str = "diffusers"
    """`modelspec.implementation`: whose module names its LoRAs have."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """Other fields of its LoRAs' metadata."""
    said: str = ""
    """A regular expression: how `ss_base_model_version` and `modelspec.architecture` of its LoRAs begin, in small
    letters, with underscores for spaces and dashes."""
    owns: Callable[[Iterable[str]], bool] | None = None
    """Whether modules' names as they were read (prefix and path, dots or underscores) are a LoRA's for it; None: what
    `lorafile.families` says of Stable Diffusion's families."""
    guidance: float = 7.0
    """The usual guidance of a preview."""
    card: str = "Unknown"
    """The "sd version" of the WebUI's card."""
    npz: str = ""
    """The ending of sd-scripts' files of latents; "": there are none."""

    @property
    def sides(self) -> tuple[Side, ...]:
        """The denoiser, and the text encoders."""
        return (self.denoiser, *self.texts)

    def predicting(self, name: str) -> Predicts:
        """What is said of a model that predicts this; of an unknown one what is usual."""
        return next((one for one in self.predictions if one.name == name), self.predictions[0])

    def lacks(self, feature: str) -> tuple[str, str]:
        """Why an option that needs the feature is refused, and what to do instead."""
        why, fix = FEATURES[feature]
        return self.without.get(feature, why), fix

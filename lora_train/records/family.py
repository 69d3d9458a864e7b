"""The facts about a family of base models that need no torch; its implementation has the model itself."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

DIFFUSION, CLIP_SKIP, TWO_ENCODERS = "diffusion", "clip skip", "two encoders"
CHUNKS, WEIGHTED = "chunks", "weighted"

FEATURES: Mapping[str, tuple[str, str]] = {
    DIFFUSION: ("it is for Stable Diffusion's noise schedule, which this base model does not have.", "Leave it out."),
    CLIP_SKIP: ("the output of this base model's text encoders is always taken from the same layer.", "Leave it out."),
    CHUNKS: ("how much of a caption this base model reads is fixed.", "Leave it out."),
    WEIGHTED: ("words of a caption have no weights for this base model's text encoders.", "Leave it out."),
    TWO_ENCODERS: ("this base model has one text encoder.", "Give train.text_encoder_lr instead."),
}
"""Features of families that options depend on: why such an option is refused without it, and what to do instead."""


@dataclass(frozen=True)
class Latents:
    """The model's representation of a picture: (channels, height / factor, width / factor)."""

    channels: int
    factor: int
    """Pixels per latent value on each side."""
    scale: float
    """The model's latents are (the VAE's latents - `shift`) * `scale`; a checkpoint may have other values."""
    shift: float = 0.0


@dataclass(frozen=True)
class Side:
    """A part of the base that networks are attached to: the denoiser, or a text encoder."""

    prefix: str
    """Its modules' names in LoRA files start with this and an underscore."""
    component: str
    """Its name in diffusers' files and folders."""
    title: str
    """Its name in a sentence: "second text encoder"."""
    dialects: tuple[str, ...] = ()
    """Other prefixes of its dotted keys, each with the last dot: "model.diffusion_model."."""
    begins: tuple[str, ...] = ()
    """In files every path starts with one of these; to other paths the first one is prepended."""
    words: frozenset[str] = frozenset()
    """The words in its modules' paths (without numbers), by which a name with underscores is split. Without them such a
    name keeps its underscores."""

    def spelled(self, path: str) -> str:
        """A module's path as it is spelled in files."""
        return self.begins[0] + path if self.begins and not path.startswith(self.begins) else path


@dataclass(frozen=True)
class Blocks:
    """The denoiser's blocks, in the order of lists with one value for each."""

    number: Callable[[str], int | None]
    """The block of a module by its name in files; None for modules outside the blocks, and for unknown names."""
    mid: int
    """Blocks in the middle; for a model without sides: all blocks."""
    side: int = 0
    """Blocks on the way down, and as many on the way up."""
    ends: int = 0
    """Blocks before the first and after the last that are in lists of dimensions, but not in lists of rates."""

    @property
    def total(self) -> int:
        """Length of a list with one value for each block."""
        return 2 * self.side + self.mid + 2 * self.ends


def numbered(prefix: str, lists: Mapping[str, int]) -> Blocks:
    """The blocks of a model without sides: consecutive lists of blocks, each by its path and its length.

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
    """A prediction type of the family, and the metadata of its LoRAs."""

    name: str
    """ "epsilon", "v_prediction", "flow"."""
    version: str
    """kohya's `ss_base_model_version`."""
    architecture: str
    """`modelspec.architecture`."""
    modelspec: str = ""
    """`modelspec.prediction_type`, which exists only for noise and v; "": not written."""


@dataclass(frozen=True)
class Family:
    """A family of base models."""

    name: str
    title: str
    """Its name in a sentence: "SD 1.x"."""
    opening: str
    """The object that recognises and opens its checkpoints, "package.module:NAME": see `models.base.Opening`."""
    latents: Latents
    denoiser: Side
    texts: tuple[Side, ...]
    """The text encoders that can be trained, in their order."""
    predictions: tuple[Predicts, ...]
    """Its prediction types, the usual one first."""
    blocks: Blocks | None = None
    features: frozenset[str] = frozenset()
    """Keys of FEATURES."""
    without: Mapping[str, str] = field(default_factory=dict)
    """Why it lacks a feature, if that differs from the text in FEATURES."""
    refused: Mapping[str, str] = field(default_factory=dict)
    """Other options that do not apply to it, by their paths, and why."""
    implementation: str = "diffusers"
    """`modelspec.implementation`: the code whose module names its LoRAs have."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """Other fields of its LoRAs' metadata."""
    said: str = ""
    """A regular expression for the start of its LoRAs' `ss_base_model_version` and `modelspec.architecture`, in lower
    case, with underscores for spaces and dashes."""
    owns: Callable[[Iterable[str]], bool] | None = None
    """Whether modules' names as read (prefix and path, dots or underscores) are those of a LoRA for it; None:
    `lorafile.families` decides, for Stable Diffusion's families."""
    guidance: float = 7.0
    """The usual guidance of a preview."""
    card: str = "Unknown"
    """The "sd version" of the WebUI's card."""
    npz: str = ""
    """The ending of sd-scripts' latent files; "": there are none."""

    @property
    def sides(self) -> tuple[Side, ...]:
        """The denoiser, and the text encoders."""
        return (self.denoiser, *self.texts)

    def predicting(self, name: str) -> Predicts:
        """The record of this prediction type; for an unknown name the usual one."""
        return next((one for one in self.predictions if one.name == name), self.predictions[0])

    def lacks(self, feature: str) -> tuple[str, str]:
        """Why an option that needs the feature is refused, and what to do instead."""
        why, fix = FEATURES[feature]
        return self.without.get(feature, why), fix

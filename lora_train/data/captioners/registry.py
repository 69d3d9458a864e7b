"""The kinds of captioner; adding one is one file and one line here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lora_train.data.captioners.command import command_captions
from lora_train.data.captioners.onnx_tagger import CHARACTER_THRESHOLD, GENERAL_THRESHOLD, onnx_tags
from lora_train.data.captioners.transformers_model import transformers_captions
from lora_train.errors import LoraTrainError

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True)
class CaptionerOptions:
    """What the kinds need, each its own part of it."""

    model: str = ""
    """A folder (or, for transformers, an id in the hub's cache; for the tagger also the .onnx file)."""
    device: str = "cpu"
    command: tuple[str, ...] = ()
    """Program and arguments; `{picture}` in an argument becomes the picture's path."""
    general: float = GENERAL_THRESHOLD
    character: float = CHARACTER_THRESHOLD


Kind = Callable[[CaptionerOptions, "Iterable[Image.Image]"], "Iterator[str]"]

CAPTIONERS: dict[str, Kind] = {
    "transformers": lambda options, pictures: transformers_captions(options.model, pictures, options.device),
    "wd14": lambda options, pictures: onnx_tags(
        options.model, pictures, options.general, options.character, options.device
    ),
    "command": lambda options, pictures: command_captions(options.command, pictures),
}


def captions(kind: str, options: CaptionerOptions, pictures: Iterable[Image.Image]) -> Iterator[str]:
    """One text per picture, in order, by the captioner of this kind. Raises LoraTrainError."""
    if kind not in CAPTIONERS:
        known = ", ".join(CAPTIONERS)
        raise LoraTrainError(f"there is no captioner {kind!r}.", "captioner", f"Choose one of {known}.")
    return CAPTIONERS[kind](options, pictures)

"""A captioner from outside: it names the mean colour of a picture, in front of it a word that an option says."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from PIL import Image

from lora_train.captions.captioners.registry import CaptionerOptions
from lora_train.config.captioning_methods import CAPTIONERS
from lora_train.config.extending import register
from lora_train.config.methods import Method
from lora_train.config.option import CAPTIONS, About
from lora_train.config.table import Option
from lora_train.errors import Problem

WORD = Option(
    "prepare",
    "colours_word",
    "mostly",
    str,
    About("Word of the colours", "the word before the colour", CAPTIONS, operations=("interrogate",)),
)


def colours(options: CaptionerOptions, pictures: Iterable[Image.Image]) -> Iterator[str]:
    """See `captioning_methods.CAPTIONERS`."""
    for picture in pictures:
        red, green, blue = picture.convert("RGB").resize((1, 1), Image.Resampling.BOX).tobytes()
        name = max((red, "red"), (green, "green"), (blue, "blue"))[1]
        yield f"{options.prepare.colours_word} {name}"  # type: ignore[attr-defined]


def lacks(options: CaptionerOptions) -> Problem | None:
    """A word is needed."""
    empty = not options.prepare.colours_word  # type: ignore[attr-defined]
    return Problem("there is no word.", WORD.path, "Give one.") if empty else None


ADDED = (WORD, (CAPTIONERS, Method("colours", "the mean colour's name", colours, (WORD.path,), lacks=lacks)))


def add() -> None:
    """The one line."""
    register(*ADDED)

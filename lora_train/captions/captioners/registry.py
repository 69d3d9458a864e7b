"""The kinds of captioner; adding one is one file and one line here."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lora_train.captions.captioners.command import command_captions
from lora_train.captions.captioners.onnx_tagger import (
    CHARACTER_THRESHOLD,
    GENERAL_THRESHOLD,
    GIVE_A_TAGGER,
    INSTALL_ONNX,
    onnx_tags,
    tagger_files,
)
from lora_train.captions.captioners.transformers_model import transformers_captions
from lora_train.errors import LoraTrainError, Problem

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True)
class CaptionerOptions:
    """The options of all kinds; each uses its own."""

    model: str = ""
    """A folder (or, for transformers, an id in the hub's cache; for the tagger also the .onnx file)."""
    device: str = "cpu"
    command: tuple[str, ...] = ()
    """Program and arguments; `{picture}` in an argument becomes the picture's path."""
    general: float = GENERAL_THRESHOLD
    character: float = CHARACTER_THRESHOLD


@dataclass(frozen=True)
class Kind:
    """`run` yields one text per picture; `lacks` says what is missing here, without loading anything."""

    run: Callable[[CaptionerOptions, Iterable[Image.Image]], Iterator[str]]
    lacks: Callable[[CaptionerOptions], Problem | None] = lambda options: None


def _tagger_lacks(options: CaptionerOptions) -> Problem | None:
    if importlib.util.find_spec("onnxruntime") is None:
        return Problem("WD14 taggers need onnxruntime, which is not installed.", "captioner", INSTALL_ONNX)
    missing = [file for file in tagger_files(Path(options.model)) if not file.is_file()]
    return Problem("there is no such file.", str(missing[0]), GIVE_A_TAGGER) if missing else None


def _command_lacks(options: CaptionerOptions) -> Problem | None:
    if options.command and shutil.which(options.command[0]) is None:
        return Problem("there is no such program.", options.command[0], "Give its path.")
    return None


CAPTIONERS: dict[str, Kind] = {
    "transformers": Kind(lambda options, pictures: transformers_captions(options.model, pictures, options.device)),
    "wd14": Kind(
        lambda options, pictures: onnx_tags(
            options.model, pictures, options.general, options.character, options.device
        ),
        _tagger_lacks,
    ),
    "command": Kind(lambda options, pictures: command_captions(options.command, pictures), _command_lacks),
}


def captions(kind: str, options: CaptionerOptions, pictures: Iterable[Image.Image]) -> Iterator[str]:
    """One text per picture, in order, by the captioner of this kind. Raises LoraTrainError."""
    return _kind(kind).run(options, pictures)


def lacking(kind: str, options: CaptionerOptions) -> Problem | None:
    """What a captioner of this kind lacks, as far as can be seen without loading it."""
    return _kind(kind).lacks(options)


def _kind(kind: str) -> Kind:
    if kind not in CAPTIONERS:
        known = ", ".join(CAPTIONERS)
        raise LoraTrainError(f"there is no captioner {kind!r}.", "captioner", f"Choose one of {known}.")
    return CAPTIONERS[kind]

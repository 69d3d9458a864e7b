"""The formulas of the tables of captioners and taggers (`config.captioning_methods`), and the way to them."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
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
from lora_train.config import PrepareOptions
from lora_train.config.captioning_methods import TABLES
from lora_train.config.methods import Method
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
    prepare: PrepareOptions = field(default_factory=PrepareOptions)
    """All options of the preparation, for a captioner that has its own."""


def by_model(options: CaptionerOptions, pictures: Iterable[Image.Image]) -> Iterator[str]:
    """What a transformers model says."""
    return transformers_captions(options.model, pictures, options.device)


def by_tagger(options: CaptionerOptions, pictures: Iterable[Image.Image]) -> Iterator[str]:
    """What a WD14 tagger lists."""
    return onnx_tags(options.model, pictures, options.general, options.character, options.device)


def by_command(options: CaptionerOptions, pictures: Iterable[Image.Image]) -> Iterator[str]:
    """What a program says."""
    return command_captions(options.command, pictures)


def of_the_host(options: CaptionerOptions, pictures: Iterable[Image.Image]) -> Iterator[str]:
    """The WebUI does it, or nobody: never called."""
    raise NotImplementedError


def tagger_lacks(options: CaptionerOptions) -> Problem | None:
    """onnxruntime, or a file."""
    if importlib.util.find_spec("onnxruntime") is None:
        return Problem("WD14 taggers need onnxruntime, which is not installed.", "captioner", INSTALL_ONNX)
    missing = [file for file in tagger_files(Path(options.model)) if not file.is_file()]
    return Problem("there is no such file.", str(missing[0]), GIVE_A_TAGGER) if missing else None


def command_lacks(options: CaptionerOptions) -> Problem | None:
    """The program."""
    if options.command and shutil.which(options.command[0]) is None:
        return Problem("there is no such program.", options.command[0], "Give its path.")
    return None


def ours() -> dict[str, Method]:
    """All captioners and taggers that are not the WebUI's, by name."""
    return {name: method for table in TABLES for name, method in table.items() if not method.outside}


def captions(kind: str, options: CaptionerOptions, pictures: Iterable[Image.Image]) -> Iterator[str]:
    """One text per picture, in order, by the captioner of this kind. Raises LoraTrainError."""
    return _kind(kind)(options, pictures)  # type: ignore[no-any-return]


def lacking(kind: str, options: CaptionerOptions) -> Problem | None:
    """What a captioner of this kind lacks, as far as can be seen without loading it."""
    return _kind(kind).lacking(options)


def _kind(kind: str) -> Method:
    if kind not in ours():
        known = ", ".join(ours())
        raise LoraTrainError(f"there is no captioner {kind!r}.", "captioner", f"Choose one of {known}.")
    return ours()[kind]

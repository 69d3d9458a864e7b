"""Captions: where they come from, the tag in front, and what changes from step to step."""

from __future__ import annotations

import codecs
import os
import random
from pathlib import Path

from lora_train.errors import LoraTrainError

CAPTION_EXTENSIONS = (".txt", ".caption")


def read_caption(picture: Path) -> str | None:
    """The text beside `picture` (`name.txt`, then `name.caption`), in one line; None without one.

    Raises LoraTrainError when it cannot be read.
    """
    file = caption_file(picture)
    return caption_text(caption_bytes(file)) if file else None


def caption_file(picture: Path) -> Path | None:
    """The caption file that counts for `picture`; None without one."""
    files = (picture.with_suffix(extension) for extension in CAPTION_EXTENSIONS)
    # Path.is_file raises where the name is too long with that ending
    return next((file for file in files if os.path.isfile(file)), None)


def caption_bytes(file: Path) -> bytes:
    """A caption file as it is. Raises LoraTrainError: without it the picture would be trained on under other words."""
    try:
        return file.read_bytes()
    except OSError as error:
        raise LoraTrainError(
            f"the caption cannot be read: {error.strerror}.", str(file), "Allow reading it, or move it away."
        ) from error


def caption_text(data: bytes) -> str:
    """A caption file's text in one line: UTF-8, or as Windows' editors also save it (UTF-16 with its mark, 1252)."""
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        text = data.decode("utf-16", "replace")
    else:
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError:
            text = data.decode("cp1252", "replace")
    return " ".join(text.split())


def with_tag(tag: str, caption: str) -> str:
    """Put the activation tag(s) in front of `caption`, unless the caption has them all already.

    >>> with_tag("sara", "a woman in a park")
    'sara, a woman in a park'
    >>> with_tag("sara", "photo of sara")
    'photo of sara'
    """
    tag = tag.strip().strip(",").strip()
    if all(f" {_words(part)} " in f" {_words(caption)} " for part in tag.split(",") if part.strip()):
        return caption
    return f"{tag}, {caption}" if caption else tag


def _words(text: str) -> str:
    return " ".join(text.lower().replace(",", " ").split())


def vary(caption: str, rng: random.Random, shuffle: bool, keep_tokens: int, dropout: float) -> str:
    """The caption for one look at a picture: parts shuffled behind the kept ones, or left out whole.

    `dropout` is the probability of the empty caption (classifier-free guidance needs some).
    """
    if dropout and rng.random() < dropout:
        return ""
    if not shuffle:
        return caption
    parts = [part.strip() for part in caption.split(",") if part.strip()]
    kept, rest = parts[:keep_tokens], parts[keep_tokens:]
    rng.shuffle(rest)
    return ", ".join(kept + rest)

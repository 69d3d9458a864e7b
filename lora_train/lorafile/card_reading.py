"""Read a card (`NAME.json`) saved by the WebUI, another tool, an editor, or a program that was interrupted."""

from __future__ import annotations

import codecs
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lora_train.errors import LoraTrainError

MAX_BYTES = 16_000_000
"""Cards have a few kilobytes; larger files are something else."""

_UTF8, _GUESSED = "utf-8", "Windows-1252"


@dataclass(frozen=True)
class Card:
    """The content of a card, and how it was read."""

    values: dict[str, Any] = field(default_factory=dict)
    whole: bool = True
    """Whether `values` are certainly everything in the file."""
    encoding: str = _UTF8

    @property
    def is_utf8(self) -> bool:
        """Whether the WebUI, which reads plain UTF-8 only, can read it."""
        return self.encoding == _UTF8


def read_card(path: Path) -> Card:
    """The card at `path`; an empty one if there is none.

    Raises LoraTrainError when it exists and cannot be read: then it must not be overwritten.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise LoraTrainError("this is too large for a LoRA's card.", str(path), "Move it away or rename it.")
        data = path.read_bytes()
    except FileNotFoundError:
        return Card()
    except OSError as error:
        raise LoraTrainError(
            f"the card cannot be read: {error.strerror}.", str(path), "Allow reading it, or move it away."
        ) from error
    text, encoding, exact = _decoded(data)
    values, whole = _parsed(text)
    return Card(values, exact and (whole or not text.strip()), encoding)


def _decoded(data: bytes) -> tuple[str, str, bool]:
    """The text, the name of its encoding, and whether that is certain. A truncated character at the end is dropped."""
    encoding = json.detect_encoding(data)
    make = codecs.getincrementaldecoder(encoding)
    decoder = make()
    try:
        text = decoder.decode(data)
    except UnicodeDecodeError:
        if encoding.startswith("utf-8"):
            return _windows_1252(data), _GUESSED, False
        return make("replace").decode(data), encoding, False
    return text, encoding, not decoder.getstate()[0]


def _windows_1252(data: bytes) -> str:
    """The text in Windows-1252, with Latin-1 for the bytes that it does not define: no byte fails."""
    return "".join(bytes([byte]).decode("cp1252", "ignore") or chr(byte) for byte in data)


def _parsed(text: str) -> tuple[dict[str, Any], bool]:
    """The object in the text, and whether that is everything; otherwise as many of its values as are complete."""
    try:
        # not strict: people write line breaks into notes
        value = json.loads(text, strict=False, object_pairs_hook=_unique)
    except (ValueError, RecursionError):
        return _salvaged(text), False
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], dict):
        return value[0], False
    return (value, True) if isinstance(value, dict) else ({}, False)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key is there twice")
    return found


def _salvaged(text: str) -> dict[str, Any]:
    """The values of the first object up to the point where it cannot be read."""
    decoder, found = json.JSONDecoder(strict=False), {}
    gap, colon = re.compile(r"[\s,]*"), re.compile(r"\s*:\s*")
    at = text.find("{") + 1
    while at:
        try:
            key, at = decoder.raw_decode(text, gap.match(text, at).end())  # type: ignore[union-attr]
            between = colon.match(text, at)
            if not isinstance(key, str) or between is None:
                break
            value, at = decoder.raw_decode(text, between.end())
        except (ValueError, RecursionError):
            break
        if isinstance(value, (int, float)) and not text[at:].lstrip().startswith((",", "}")):
            break  # a number may have lost its last digits
        found[key] = value
    return found

"""Read a card (`NAME.json`) whoever saved it: the WebUI, another tool, an editor, or a program that was cut off."""

from __future__ import annotations

import codecs
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lora_train.errors import LoraTrainError

MAX_BYTES = 16_000_000
"""Cards have a few kilobytes; what is larger is something else of that name."""

_UTF8, _GUESSED = "utf-8", "Windows-1252"


@dataclass(frozen=True)
class Card:
    """What a card says, and how it was read."""

    values: dict[str, Any] = field(default_factory=dict)
    whole: bool = True
    """Whether `values` are all that the file holds, for certain."""
    encoding: str = _UTF8

    @property
    def is_utf8(self) -> bool:
        """Whether the WebUI, which reads plain UTF-8 only, can read it."""
        return self.encoding == _UTF8


def read_card(path: Path) -> Card:
    """The card at `path`; an empty one where there is none.

    Raises LoraTrainError when it is there and cannot be read: then it must not be written over.
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
    """Text, its encoding's name, and whether that is certain. A character cut off at the end is left out."""
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
    """What no byte fails in: where Windows' table has nothing, Latin-1's counts."""
    return "".join(bytes([byte]).decode("cp1252", "ignore") or chr(byte) for byte in data)


def _parsed(text: str) -> tuple[dict[str, Any], bool]:
    """The object that the text is, and whether it is all of it; else as many of its values as are whole."""
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
    """The values of the first object up to where it cannot be read any more."""
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

"""The `<lora:name:strength>` syntax of the WebUI's prompts."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

DEFAULT_STRENGTH = 1.0

# like the WebUI's extra_networks.parse_prompt, for the networks that are ours; `\<` is escaped
_TAG = re.compile(r"(?<!\\)<(?:lora|lyco):([^<>]*)>", re.IGNORECASE)


@dataclass(frozen=True)
class LoraTag:
    """One `<lora:...>`: the network's name, its strengths on text encoder and UNet, and the rank it is cut to."""

    name: str
    te: float
    unet: float
    dyn: int | None = None


@dataclass(frozen=True)
class ParsedPrompt:
    """The prompt without its tags, the tags, and what could not be understood."""

    text: str
    tags: tuple[LoraTag, ...]
    notes: tuple[str, ...] = ()


def parse_prompt(prompt: str, default: float = DEFAULT_STRENGTH) -> ParsedPrompt:
    """Split a prompt into text and `<lora:...>` tags.

    `<lora:name>` counts `default`, `<lora:name:0.8>` both parts, `<lora:name:0.5:1>` text encoder
    and UNet, `<lora:name:1:1:16>` cuts it to 16 ranks; `te=`, `unet=` and `dyn=` name them. A tag that
    cannot be understood is taken out and noted.
    """
    tags: list[LoraTag] = []
    notes: list[str] = []

    def take(match: re.Match[str]) -> str:
        try:
            tags.append(_tag(match[1], default))
        except ValueError as error:
            notes.append(f"{match[0]} is ignored: {error}")
        return ""

    text = _TAG.sub(take, prompt).replace("\\<", "<")
    return ParsedPrompt(re.sub(r"[ \t]{2,}", " ", text).strip(), tuple(tags), tuple(notes))


def _tag(content: str, default: float) -> LoraTag:
    return tag_of_items(content.split(":"), default)


def tag_of_items(content: Sequence[str], default: float = DEFAULT_STRENGTH) -> LoraTag:
    """A tag from the parts between its colons. Raises ValueError that says what cannot be understood."""
    name, *items = (item.strip() for item in content)
    if not name:
        raise ValueError("it names no LoRA.")
    positional = [item for item in items if "=" not in item]
    named = dict(item.split("=", 1) for item in items if "=" in item)
    if len(positional) > 3:
        raise ValueError("only two strengths and a rank are understood.")
    te = _number(positional[0]) if positional else default
    unet = _number(positional[1]) if len(positional) > 1 else te
    dyn = _rank(positional[2]) if len(positional) > 2 else None
    for key, value in named.items():
        if key.strip().lower() == "te":
            te = _number(value)
        elif key.strip().lower() == "unet":
            unet = _number(value)
        elif key.strip().lower() == "dyn":
            dyn = _rank(value)
        else:
            raise ValueError(f"{key}= is not known.")
    return LoraTag(name, te, unet, dyn)


def _rank(text: str) -> int:
    if not text.strip().isdecimal() or int(text) < 1:
        raise ValueError(f"{text!r} is not a rank.")
    return int(text)


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise ValueError(f"{text!r} is not a number.") from None
    if not math.isfinite(value):
        raise ValueError(f"{text!r} is not a finite number.")
    return value

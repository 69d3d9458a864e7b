"""The `<lora:name:strength>` syntax of the WebUI's prompts."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from lora_train.lorafile.strengths import USUAL, Wanted

DEFAULT_STRENGTH = 1.0
MOST = 1000.0
"""The highest strength that is applied, of either sign: beyond it the result is no longer a picture."""

OURS = ("lora", "lyco")

# like the WebUI's extra_networks.parse_prompt, which removes every `<word:...>`; `\\<` is escaped
_TAG = re.compile(r"(?<!\\)<(\w+):([^<>]*)>|(?<!\\)<(lora|lyco)>", re.IGNORECASE)
_OPEN = re.compile(r"(?<!\\)<(?:lora|lyco|hypernet):[^<>]*", re.IGNORECASE)
_MAX_NESTED = 16
_SCHEDULE = re.compile(r"[@~,;]")


@dataclass(frozen=True)
class LoraTag(Wanted):
    """One `<lora:...>`."""

    spelled: str = field(default="", compare=False)
    """The name with the blanks around it, where it was written with some."""

    @property
    def written(self) -> str:
        """The name as it was written."""
        return self.spelled or self.name


@dataclass(frozen=True)
class ParsedPrompt:
    """The prompt without its tags, the tags, and what could not be understood."""

    text: str
    tags: tuple[LoraTag, ...]
    notes: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()
    """The notes that are about a LoRA left out because its tag could not be understood."""


def parse_prompt(prompt: str, default: float = DEFAULT_STRENGTH) -> ParsedPrompt:
    """Split a prompt into text and `<lora:...>` tags.

    `<lora:name>` has the strength `default`, `<lora:name:0.8>` sets it for both parts, `<lora:name:0.5:1>` for text
    encoder and UNet, `<lora:name:1:1:16>` cuts it to rank 16; `te=`, `unet=` and `dyn=` name them. A tag that
    cannot be understood, or is another network's (`<hypernet:...>`), is removed and noted; one that is not closed
    is noted.
    """
    tags: list[LoraTag] = []
    notes: list[str] = []
    refused: list[str] = []

    def take(match: re.Match[str]) -> str:
        kind, content = match[1] or match[3], match[2] or ""
        try:
            if kind.lower() not in OURS:
                raise ValueError(f"networks of the kind {kind} are not supported.")
            tag = _tag(content, default)
        except ValueError as error:
            notes.append(f"{match[0]} is ignored: {error}")
            refused.extend(notes[-1:] if kind.lower() in OURS else [])
        else:
            tags.append(tag)
            notes.extend(strength_notes(tag, match[0]))
        return ""

    text = prompt
    for _ in range(_MAX_NESTED):  # removing one may complete another around it
        text, count = _TAG.subn(take, text)
        if not count:
            break
    notes += [f"{match[0].strip()} has no > and is read as words." for match in _OPEN.finditer(text)]
    notes = list(dict.fromkeys(notes))
    words = re.sub(r"[ \t]{2,}", " ", text.replace("\\<", "<")).strip()
    return ParsedPrompt(words, tuple(tags), tuple(notes), tuple(dict.fromkeys(refused)))


def strength_notes(tag: LoraTag, shown: str) -> list[str]:
    """A note on strengths that are far from usual; `shown` is the tag as it was written."""
    highest = max((tag.te, tag.unet), key=abs)
    if abs(highest) >= MOST:
        return [f"{shown}: the strength counts as {highest:g}, the most that is applied; it is unusual; 1 is usual."]
    return [f"{shown}: a strength of {highest:g} is unusual; 1 is usual."] if abs(highest) > USUAL else []


def _tag(content: str, default: float) -> LoraTag:
    parts = content.split(":")
    if len(parts) > 1 and re.fullmatch(r"\s*[A-Za-z]", parts[0]) and parts[1][:1] in ("/", "\\"):
        parts[:2] = [":".join(parts[:2])]  # C:\loras\sara.safetensors
    return tag_of_items(parts, default)


def tag_of_items(content: Sequence[str], default: float = DEFAULT_STRENGTH) -> LoraTag:
    """A tag from the parts between its colons. Raises ValueError that says what cannot be understood."""
    name, *items = (item.strip() for item in content)
    spelled = content[0] if content[0] != name else ""
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
    return LoraTag(name, te, unet, dyn, spelled=spelled)


def _rank(text: str) -> int:
    if not text.strip().isdecimal() or int(text) < 1:
        raise ValueError(f"{text!r} is not a rank.")
    return int(text)


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise ValueError(f"{text!r} is not a number{_instead(text)}.") from None
    if not math.isfinite(value):
        raise ValueError(f"{text!r} is not a finite number.")
    return max(-MOST, min(MOST, value))


def _instead(text: str) -> str:
    """What could have been meant."""
    if re.fullmatch(r"[-+]?\d*,\d+", text):
        return f"; write {text.replace(',', '.')}"
    if re.fullmatch(r"[-+]?\d+(?:\.\d+)?%", text):
        return f"; write {float(text[:-1]) / 100:g}"
    return "; strengths that change over the steps are not supported" if _SCHEDULE.search(text) else ""

"""What captions contain that a person should know before training on it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from lora_train.config import DataOptions
from lora_train.pictures.caption_reading import named
from lora_train.pictures.tags import CHOICE, NETWORK, WILDCARD, WORDS

LOOKED_AT = 100_000
"""Most characters of a caption that are checked."""

SYNTAX = {
    "weights such as (x:1.3)": re.compile(r"(?<!\\)\([^()]*:\s*[+-]?\d[\d.]*\s*\)"),
    "brackets such as ((x)) or [x]": re.compile(r"(?<!\\)\(\(|\{\{|(?<!\\)\[[^\[\]]+\]"),
    "BREAK or AND": WORDS,
    "networks such as <lora:x:1>": NETWORK,
    "wildcards such as {a|b} or __a__": re.compile(f"{CHOICE.pattern}|{WILDCARD.pattern}"),
    "|||": re.compile(r"\|\|\|"),
    r"backslashes such as \(x\)": re.compile(r"\\[()\[\]{}:,]"),
    "HTML such as &amp;": re.compile(r"&(?:#\d{1,6}|#x[0-9a-f]{1,6}|amp|quot|lt|gt|nbsp|apos);", re.IGNORECASE),
}
"""What a WebUI's prompt or a web page interprets, and training takes literally."""

DATA = re.compile(r"""[{\[]\s*["'][^"']*["']\s*[:,\]]""")
"""JSON, or Python's notation of it: `{"caption": ...`, `["a", ...`."""
ADDRESS = re.compile(
    r"(?:https?://|www\.)\S|(?<!\w)[a-zA-Z]:[\\/]\w|(?:/[\w.-]+){3,}|\S\.(?:png|jpe?g|webp)(?!\w)", re.IGNORECASE
)


def content_notes(captions: Iterable[tuple[Path, str]], tag: str, data: DataOptions = DataOptions()) -> list[str]:
    """Notes on the pictures' captions, with the tag in front: which have nothing else, and which hold prompt syntax."""
    listed = [(path, caption[:LOOKED_AT]) for path, caption in captions]
    bare = tag.strip().strip(",").strip()
    notes = _few_words([path for path, caption in listed if _form(caption) in ("", _form(bare))], len(listed), bare)
    kinds = {
        kind: [path for path, caption in listed if pattern.search(caption)] for kind, pattern in _literal(data).items()
    }
    found = {kind: len(paths) for kind, paths in kinds.items() if paths}
    if found:
        count = len({path for paths in kinds.values() for path in paths})
        which = ", ".join(f"{kind} in {number}" for kind, number in found.items())
        notes.append(
            f"Prompt syntax in {count} of {len(listed)} captions is trained on literally ({which}). To remove it: "
            "lora-train captions FOLDER plain, or Remove prompt syntax on the Dataset page."
        )
    literal = [path for path, caption in listed if DATA.search(caption)]
    if literal:
        notes.append(
            f"The caption of {named(literal)} contains JSON, which is trained on literally: keep only the text."
        )
    addresses = [path for path, caption in listed if ADDRESS.search(caption)]
    if addresses:
        notes.append(f"The caption of {named(addresses)} contains the address of a file or a page.")
    return notes


def _literal(data: DataOptions) -> dict[str, re.Pattern[str]]:
    """The syntax that a training with these options takes literally."""
    known = {
        "weights such as (x:1.3)": data.weighted_captions,
        "brackets such as ((x)) or [x]": data.weighted_captions,
        r"backslashes such as \(x\)": data.weighted_captions,
        "wildcards such as {a|b} or __a__": data.enable_wildcard,
        "|||": data.keep_tokens_separator == "|||",
    }
    return {kind: pattern for kind, pattern in SYNTAX.items() if not known.get(kind)}


def _few_words(paths: list[Path], count: int, tag: str) -> list[str]:
    if not paths:
        return []
    who = "All pictures" if len(paths) == count else f"{len(paths)} of {count} pictures"
    has = "has" if len(paths) == 1 and count > 1 else "have"
    which = "" if len(paths) == count else f" ({named(paths)})"
    return [f"{who} {has} {'nothing but the tag as' if tag else 'no'} caption{which}."]


def _form(caption: str) -> str:
    return caption.strip(" ,").casefold()

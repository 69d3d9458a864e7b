"""Messages in the words of the face that shows them: they name options by their paths, as the API has them."""

from __future__ import annotations

import re
from collections.abc import Callable

from lora_train.config.run import RunConfig
from lora_train.config.table import Option, find, known

# what stands in quotation marks is what a person typed, and a path with more behind it is a file's
_PATH = re.compile(
    rf"""(?<![\w./\\'"-])(?:{"|".join(RunConfig.__dataclass_fields__)})\.[a-z][a-z0-9_]*(?![\w/\\'"-]|\.\w)"""
)


def in_flags(text: str) -> str:
    """`text` for the command line: each path of an option becomes its flag."""
    return _said(text, flag_of)


def in_labels(text: str) -> str:
    """`text` for a page: each path of an option becomes its label, between quotation marks within a sentence."""
    return _said(text, lambda option: f"“{option.about.label}”")


def flag_of(option: Option) -> str:
    """The flag that sets it."""
    return option.flags[0] if option.flags else option.about.through


def label_of(path: str) -> str:
    """What a page calls the option of this path; what is none stays."""
    return find(path).about.label if known(path) else path


def hint_of(path: str) -> str:
    """The help of the option of this path as a sentence of its own, with what happens where a field is left empty."""
    about = find(path).about
    text = about.help[0].upper() + about.help[1:]
    return f"{text} (empty: {about.unset})" if about.unset else text


def _said(text: str, word: Callable[[Option], str]) -> str:
    return _PATH.sub(lambda match: word(find(match[0])) if known(match[0]) else match[0], text)

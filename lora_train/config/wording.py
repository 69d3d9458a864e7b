"""Messages in the words of the face that shows them: they name options by their paths, as the API has them."""

from __future__ import annotations

import re
from collections.abc import Callable

from lora_train.config.option import COMMAS, REPEATED, WORDS
from lora_train.config.run import RunConfig
from lora_train.config.table import Option, find, known
from lora_train.config.values import plain_type
from lora_train.records.families import FAMILIES

AUTOMATIC = "automatic"
"""What a page calls a choice that is left to the program."""

_WAYS = {REPEATED: "one per line", COMMAS: "separated by commas", WORDS: "separated by spaces"}
"""How the items of a list are written in a field."""

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
    """The help of the option of this path for a page, with how a list is written and what a field left open means."""
    option = find(path)
    about = option.about
    said = [about.help] if about.help.casefold() != about.label.casefold() else []  # not the label once more
    if about.written in _WAYS and not about.choices:  # choices are ticked
        said.append(_WAYS[about.written])
    left_open = f"{AUTOMATIC if plain_type(option.hint) is bool else 'empty'}: {about.unset}" if about.unset else ""
    if not said:
        return sentence(left_open)
    return sentence("; ".join(said)) + (f" ({left_open})" if left_open else "")


def sentence(text: str) -> str:
    """`text` with a capital at its start."""
    return text[:1].upper() + text[1:]


def concerns(option: Option) -> str:
    """What an option counts for alone: "for lora, loha"; nothing where it always counts."""
    about = option.about
    families = about.families if len(about.families) < len(FAMILIES) else ()
    return "; ".join(f"for {', '.join(names)}" for names in (about.kinds, families, about.operations) if names)


def _said(text: str, word: Callable[[Option], str]) -> str:
    return _PATH.sub(lambda match: word(find(match[0])) if known(match[0]) else match[0], text)

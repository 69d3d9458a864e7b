"""Messages in the words of the interface that shows them: in the code they name options by their paths."""

from __future__ import annotations

import re
from collections.abc import Callable

from lora_train.config.option import COMMAS, REPEATED, WORDS
from lora_train.config.run import RunConfig
from lora_train.config.table import COMMANDS, Option, find, known
from lora_train.config.values import plain_type
from lora_train.records.families import FAMILIES

AUTOMATIC = "automatic"
"""The name on a page of a choice that is left to the program."""

_WAYS = {REPEATED: "one per line", COMMAS: "separated by commas", WORDS: "separated by spaces"}
"""How the items of a list are written in a field."""

_SECTIONS = "|".join([*RunConfig.__dataclass_fields__, *COMMANDS])
# text in quotation marks was typed by a person, and a path followed by more is a file's
_PATH = re.compile(rf"""(?<![\w./\\'"-])(?:{_SECTIONS})\.[a-z][a-z0-9_]*(?![\w/\\'"-]|\.\w)""")


def in_flags(text: str) -> str:
    """`text` for the command line: each path of an option becomes its flag."""
    return _replaced(text, flag_of)


def in_labels(text: str) -> str:
    """`text` for a page: each path of an option becomes its label, between quotation marks within a sentence."""
    return _replaced(text, lambda option: f"“{option.about.label}”")


def flag_of(option: Option) -> str:
    """The flag that sets it."""
    return option.flags[0] if option.flags else option.about.through


def label_of(path: str) -> str:
    """The label of the option with this path; any other text is returned unchanged."""
    return find(path).about.label if known(path) else path


def hint_of(path: str) -> str:
    """The help of the option with this path for a page, with the way to write a list and what an empty field means."""
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
    """`text` with its first letter capitalised."""
    return text[:1].upper() + text[1:]


def concerns(option: Option) -> str:
    """What an option applies to: "for lora, loha"; empty if it always applies."""
    about = option.about
    families = about.families if len(about.families) < len(FAMILIES) else ()
    return "; ".join(f"for {', '.join(names)}" for names in (about.kinds, families, about.operations) if names)


def _replaced(text: str, word: Callable[[Option], str]) -> str:
    return _PATH.sub(lambda match: word(find(match[0])) if known(match[0]) else match[0], text)

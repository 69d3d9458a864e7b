"""Fields of a page parsed as values of options; everything that cannot be parsed is reported together."""

from __future__ import annotations

import math
import re
import shlex
from pathlib import Path
from typing import Any

from lora_train.config.option import REPEATED
from lora_train.config.table import Option
from lora_train.config.values import describe, item_type, parse, parse_written, plain_type
from lora_train.config.wording import AUTOMATIC
from lora_train.errors import LoraTrainError, Problem

ON, OFF = "on", "off"
SWITCH: dict[str, bool | None] = {AUTOMATIC: None, ON: True, OFF: False}
"""The texts in a field for an option that is on, off, or automatic."""

_PATHS = ("PATH", "FOLDER", "FILE", "FILE[:STRENGTH]", "MODEL")
"""The table's metavars of values that are paths."""


class Reader:
    """Parses fields one after another."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        """The problems found so far."""

    def __call__(self, option: Option, shown: Any) -> Any:
        """The value in the field of `option`; its default if the field is empty or cannot be parsed."""
        if isinstance(shown, (list, tuple)):
            if item_type(option.hint):
                return tuple(one for one in option.about.choices if one in shown)
            shown = shown[0] if shown else ""  # a dropdown that may be typed into, in some versions of gradio
        if isinstance(shown, bool):
            return shown
        text = "" if shown is None else str(shown).strip()
        if not text:
            return option.default
        try:
            return _value(option, text)
        except ValueError as error:
            self.problems.append(Problem(f"{error}.", option.path, "Give another value, or leave it empty."))
            return option.default

    def check(self) -> None:
        """Raises LoraTrainError with every field that could not be parsed."""
        if self.problems:
            raise LoraTrainError.of(self.problems)


def written(option: Option, value: Any) -> str:
    """A value as text for its field; the inverse of parsing it."""
    if value is None:
        return AUTOMATIC if plain_type(option.hint) is bool else ""
    if isinstance(value, bool):
        return ON if value else OFF
    if isinstance(value, tuple):
        return _list_written(option, value)
    short = f"{value:.10g}" if isinstance(value, float) else str(value)
    return short if not isinstance(value, float) or float(short) == value else repr(value)


def path_of(text: str | None) -> str:
    """The path in a text field, without the quotation marks that "Copy as path" and shells put around it."""
    path = (text or "").strip()
    quoted = len(path) > 2 and path[0] == path[-1] and path[0] in "\"'"
    return path[1:-1].strip() if quoted and not exists(path) else path


def exists(path: str) -> bool:
    """Whether there is such a file or folder; False for invalid paths."""
    try:
        return Path(path).expanduser().exists()
    except (OSError, RuntimeError, ValueError):  # too long, "~nobody", a NUL
        return False


def _value(option: Option, text: str) -> Any:
    hint, about = plain_type(option.hint), option.about
    plain = path_of if about.metavar in _PATHS else str.strip
    if about.written == REPEATED:
        return tuple(one for line in text.splitlines() if (one := plain(line)))
    if item_type(hint):
        return parse_written(option.hint, about.written, text)
    if hint is bool:
        return SWITCH[text] if text in SWITCH else parse(option.hint, text)
    return _number(hint, text) if hint in (int, float) else plain(text)


def _list_written(option: Option, value: tuple[Any, ...]) -> str:
    """With commas where that is read as the same list, else as the words of a command, else with semicolons."""
    items = [*map(str, value)]
    if option.about.written == REPEATED:
        return "\n".join(items)
    forms = (", ".join(items), shlex.join(items), "; ".join(items))
    return next((one for one in forms if parse_written(option.hint, option.about.written, one) == value), forms[0])


def _number(hint: type, text: str) -> int | float:
    try:
        return int(text) if hint is int else float(_with_point(text))
    except ValueError:
        pass
    try:  # "8.0" and "1e3" are whole numbers, too
        value = float(_with_point(text))
    except ValueError:
        raise ValueError(f"{text!r} is not {describe(hint)}") from None
    if not (math.isfinite(value) and value == int(value)):
        raise ValueError(f"{text!r} is not {describe(hint)}")
    return int(value)


def _with_point(text: str) -> str:
    """ "0,5" is half in many countries; "1,000" is one there and a thousand elsewhere, so it is left unchanged."""
    return text if re.search(r",\d{3}\b", text) else text.replace(",", ".")

"""What importing another program's options needs, whatever its form: the report, and values read as ours."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from lora_train.config.run import RunConfig
from lora_train.config.table import Option, options
from lora_train.config.values import describe, item_type, may_be_none, parse_written, plain_type, sides_of

OFF = ("", "0", "0.0", "false", "none", "[]")
"""The values that GUIs write for empty fields."""


@dataclass
class Imported:
    """The result of importing another program's file."""

    values: dict[str, Any] = field(default_factory=dict)
    """Values by the path of the option."""
    taken: dict[str, str] = field(default_factory=dict)
    """The other program's name to the path here."""
    differs: dict[str, str] = field(default_factory=dict)
    left: dict[str, str] = field(default_factory=dict)
    """The names that are not honoured, and why."""

    def config(self) -> RunConfig:
        """The options of the run."""
        return RunConfig.from_dict(self.sections())

    def sections(self) -> dict[str, dict[str, Any]]:
        """The values by section and name."""
        sections: dict[str, dict[str, Any]] = {}
        for path, value in self.values.items():
            section, _, name = path.partition(".")
            sections.setdefault(section, {})[name] = value
        return sections

    def lines(self) -> Iterator[str]:
        """The report, a line for each name."""
        for name, path in self.taken.items():
            yield f"taken: {name} as {path} = {as_text(self.values[path])}"
        for name, why in self.differs.items():
            yield f"differs: {name} {why}"
        for name, why in self.left.items():
            yield f"not honoured: {name} {why}"


class Share:
    """A share of the training's steps, in percent."""

    def __init__(self, percent: Any) -> None:
        self.percent = number(as_text(percent))


def is_off(text: str) -> bool:
    """Whether a value, as text, is what programs write for an option that is not set."""
    return text.casefold() in OFF


def take(found: Imported, name: str, option: Option, value: Any, steps: int = 0) -> None:
    """Take an option that also exists here; `steps` are those of the training, 0 if they are not given."""
    try:
        read = read_value(option, value, steps)
    except ValueError as error:
        found.left[name] = f"= {as_text(value)}: {error}."
        return
    if read is not None:
        found.values[option.path] = read
        found.taken[name] = option.path
        if option.name == "resolution" and (sides := sides_of(as_text(value))) and sides[1]:
            found.values["data.height"] = sides[1]


def read_value(option: Option, value: Any, steps: int) -> Any:
    """The value in our terms; None if it is empty. Raises ValueError that says what is wrong."""
    text, hint = as_text(value), plain_type(option.hint)
    if isinstance(value, Share) or (option.name == "lr_warmup_steps" and 0 < number(text) < 1):
        share = value.percent / 100 if isinstance(value, Share) else number(text)
        if not math.isfinite(share):
            raise ValueError("it is not a number")
        if not steps:
            if option.name == "lr_warmup_steps" and 0 < share < 1:
                return share
            raise ValueError("it is a share of the steps, but their number is not given")
        return round(share * steps)
    if text.casefold() in ("", "none"):
        return None
    if hint is bool:
        if text.casefold() not in ("true", "false", "1", "0"):
            raise ValueError("it is neither true nor false")
        on = text.casefold() in ("true", "1")
        return None if may_be_none(option.hint) and not on else on  # a flag that is not set
    if item_type(hint):
        if isinstance(value, list) and item_type(hint) is str:
            return tuple(map(as_text, value))
        return parse_written(hint, option.about.written, text)
    if hint is str:
        text = option.about.kohya_values.get(text, text)
        if option.about.choices and text.casefold() not in option.about.choices:
            raise ValueError(f"it is not available yet; {option.default} is used")
        return text.casefold() if option.about.choices else text
    if option.name == "resolution":
        sides = sides_of(text)
        if sides is None:
            raise ValueError("it is neither a number of pixels nor width and height")
        text = str(sides[0])
    found = int(text) if re.fullmatch(r"[+-]?\d+", text) else number(text)  # a seed can have more digits than a float
    if not math.isfinite(found) or (hint is int and found != int(found)):
        raise ValueError(f"it is not {describe(option.hint)}")
    if option.about.range and not option.about.range[0] <= found <= option.about.range[1]:
        if found == 0 and may_be_none(option.hint):
            return None  # off there
        raise ValueError("it is out of range here, {:g} to {:g}".format(*option.about.range))
    return hint(found)


def number(text: str) -> float:
    """A text as a number; nan if it is none."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def kohya_names() -> dict[str, Option]:
    """Our options by their names in sd-scripts."""
    return {name: option for option in options() for name in option.about.kohya}


def as_text(value: Any) -> str:
    """A value as the report shows it."""
    if isinstance(value, (list, tuple)):
        return ", ".join(map(as_text, value))
    if isinstance(value, Share):
        return f"{value.percent:g} %"
    if isinstance(value, bool):
        return str(value).lower()
    return "" if value is None else str(value).strip()

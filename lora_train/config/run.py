"""The options of a run as frozen dataclasses, which survive a round trip through JSON.

Names are kohya's (sd-scripts) if there is one, since people's presets use them. `None` means "choose for me":
`automatic.resolve` fills these in and reports why. `sections` has the description of each option.
"""

from __future__ import annotations

import difflib
import typing
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar

from lora_train.config.registered import Section, own_names, registered
from lora_train.config.sections.data import DataOptions, ModelOptions
from lora_train.config.sections.network import NetworkOptions
from lora_train.config.sections.prepare import PrepareOptions
from lora_train.config.sections.save import PreviewOptions, SaveOptions
from lora_train.config.sections.train import TrainOptions
from lora_train.config.values import describe, fit
from lora_train.errors import LoraTrainError, Problem

VERSION = 1

S = TypeVar("S", bound=Section)


@dataclass(frozen=True)
class RunConfig:
    """Everything a run needs to know."""

    model: ModelOptions = field(default_factory=ModelOptions)
    data: DataOptions = field(default_factory=DataOptions)
    prepare: PrepareOptions = field(default_factory=PrepareOptions)
    network: NetworkOptions = field(default_factory=NetworkOptions)
    train: TrainOptions = field(default_factory=TrainOptions)
    save: SaveOptions = field(default_factory=SaveOptions)
    preview: PreviewOptions = field(default_factory=PreviewOptions)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data with a version number."""
        return {"version": VERSION, **{one.name: getattr(self, one.name).to_dict() for one in fields(self)}}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> RunConfig:
        """The inverse of `to_dict`. Missing fields get their defaults.

        Raises LoraTrainError that names all unknown fields and wrong types together.
        """
        rest = dict(data)
        version = rest.pop("version", VERSION)
        if version != VERSION:
            raise LoraTrainError(
                f"this configuration has version {version!r}; this program reads version {VERSION}.",
                "version",
                "Update the extension.",
            )
        found: list[Problem] = []
        kinds: dict[str, type[Section]] = typing.get_type_hints(cls)
        parts: dict[str, Any] = {}
        for name, part in rest.items():
            if name in kinds:
                parts[name] = section_of(kinds[name], part, found)
            else:
                found.append(unknown(name, name, [*kinds]))
        config = cls(**parts)
        if found:
            raise LoraTrainError.of(found)
        return config


def suggestion(name: str, names: list[str]) -> str:
    """ "Did you mean ...?" if one of `names` is close to `name`; otherwise empty."""
    near = difflib.get_close_matches(name, names, 1, 0.6)
    return f"Did you mean {near[0]}?" if near else ""


def unknown(name: object, path: str, known: list[str]) -> Problem:
    """The problem with a name that is none of `known`."""
    fix = suggestion(str(name), known) or "Remove it or check its spelling."
    return Problem("there is no such option.", path, fix)


def section_of(kind: type[S], data: Any, found: list[Problem]) -> S:
    """A section from JSON data; problems are added to `found`, and their options ignored."""
    section = kind.section_name()
    if not isinstance(data, dict):
        found.append(Problem(f"must be a group of options, not {data!r}.", section))
        return kind()
    own = typing.get_type_hints(kind)
    hints = {name: own[name] for name in own_names(kind)}
    hints |= {option.name: option.hint for option in registered(section)}
    values: dict[str, Any] = {}
    for name, value in data.items():
        path = f"{section}.{name}"
        if name not in hints:
            found.append(unknown(name, path, [*hints]))
            continue
        ok, fitting = fit(hints[name], value)
        if ok:
            values[name] = fitting
        else:
            found.append(Problem(f"{value!r} is not {describe(hints[name])}.", path))
    return kind.of_values(values)

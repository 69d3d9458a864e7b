"""The table of options: every field of `RunConfig` with its default, its type and what is said of it."""

from __future__ import annotations

import functools
import typing
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

from lora_train.config.option import KEY, About
from lora_train.config.run import RunConfig


@dataclass(frozen=True)
class Option:
    """One option of a run."""

    section: str
    """Of `RunConfig`: "train"."""
    name: str
    default: Any
    hint: Any
    """Its type as annotated; `values` reads and checks by it."""
    about: About

    @property
    def path(self) -> str:
        """Its name in the API and in messages: "train.learning_rate"."""
        return f"{self.section}.{self.name}"

    @property
    def flags(self) -> tuple[str, ...]:
        """Its flags at the command line."""
        return (f"--{self.name.replace('_', '-')}",) if self.about.flags is None else self.about.flags

    def of(self, config: RunConfig) -> Any:
        """Its value in `config`."""
        return getattr(getattr(config, self.section), self.name)


@functools.lru_cache(maxsize=1)
def options() -> tuple[Option, ...]:
    """All options, in the order in which they are declared."""
    return tuple(_all())


def _all() -> Iterator[Option]:
    sections = typing.get_type_hints(RunConfig)
    for section in fields(RunConfig):
        kind = sections[section.name]
        hints = typing.get_type_hints(kind)
        for field in fields(kind):
            yield Option(section.name, field.name, field.default, hints[field.name], field.metadata[KEY])


def in_section(section: str) -> tuple[Option, ...]:
    """The options of one section: "network"."""
    return tuple(option for option in options() if option.section == section)


@functools.lru_cache(maxsize=1)
def _by_path() -> dict[str, Option]:
    return {option.path: option for option in options()}


def find(path: str) -> Option:
    """The option of this path. Raises KeyError."""
    return _by_path()[path]


def known(path: str) -> bool:
    """Whether there is an option of this path."""
    return path in _by_path()


RANGES = {option.path: option.about.range for option in options() if option.about.range}
"""Least and greatest value of each that has them. None is allowed where the field may be None."""

CHOICES = {option.path: option.about.choices for option in options() if option.about.choices}
"""What each may be; of a list, what each item must be."""

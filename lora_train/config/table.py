"""The table of options: every field of `RunConfig` with its default, its type and its description.

`options()` includes the registered options (`register`), and so does everything that is made from it. The options of
other commands (`COMMANDS`) are found by their paths and sections in the same way, and are no part of a run.
"""

from __future__ import annotations

import functools
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, replace
from typing import TypeVar

from lora_train.config.methods import Table
from lora_train.config.option import GROUPS, KEY, LEVELS
from lora_train.config.registered import Option, Section, add, own_names, registered, remove
from lora_train.config.run import RunConfig
from lora_train.config.sections.captions import CaptionsOptions
from lora_train.config.sections.generate import GenerateOptions
from lora_train.config.values import fit
from lora_train.records.table import changes

__all__ = [
    "CHOICES",
    "COMMANDS",
    "RANGES",
    "Live",
    "Option",
    "find",
    "in_section",
    "known",
    "options",
    "register",
    "unregister",
]

T = TypeVar("T")

COMMANDS: dict[str, type[Section]] = {"generate": GenerateOptions, "captions": CaptionsOptions}
"""The sections of other commands than a training's."""


def options() -> tuple[Option, ...]:
    """All options, in the order in which they are declared; registered ones at the end of their section."""
    return _options(changes())


@functools.lru_cache(maxsize=1)
def _options(_changes: int) -> tuple[Option, ...]:
    return tuple(_all())


def _all() -> Iterator[Option]:
    sections = typing.get_type_hints(RunConfig)
    for section in fields(RunConfig):
        yield from _declared(section.name, sections[section.name])
        yield from map(_plain, registered(section.name))


def _declared(section: str, kind: type[Section]) -> Iterator[Option]:
    hints = typing.get_type_hints(kind)
    declared = {field.name: field for field in fields(kind)}
    for name in own_names(kind):
        field = declared[name]
        yield _plain(Option(section, name, field.default, hints[name], field.metadata[KEY]))


@functools.lru_cache
def of_command(section: str) -> tuple[Option, ...]:
    """The options of a section of `COMMANDS`: "generate"."""
    return tuple(_declared(section, COMMANDS[section]))


def _plain(option: Option) -> Option:
    """The option with a table of choices replaced by the table's current names, with sd-scripts' names of them."""
    about = option.about
    if isinstance(about.choices, Table):
        theirs = {word: method.name for method in about.choices.values() for word in method.kohya}
        about = replace(about, kohya_values={**about.kohya_values, **theirs})
    return replace(option, about=replace(about, choices=tuple(about.choices)))


def in_section(section: str) -> tuple[Option, ...]:
    """The options of one section: "network"."""
    if section in COMMANDS:
        return of_command(section)
    return tuple(option for option in options() if option.section == section)


@functools.lru_cache(maxsize=1)
def _by_path(_changes: int) -> dict[str, Option]:
    others = (option for section in COMMANDS for option in of_command(section))
    return {option.path: option for option in (*options(), *others)}


def find(path: str) -> Option:
    """The option with this path. Raises KeyError."""
    return _by_path(changes())[path]


def known(path: str) -> bool:
    """Whether there is an option with this path."""
    return path in _by_path(changes())


class Live(Mapping[str, T]):
    """A mapping made from `options()`, and made again when they have changed."""

    def __init__(self, make: Callable[[], dict[str, T]]) -> None:
        self._make, self._of, self._made = make, -1, dict[str, T]()

    def _content(self) -> dict[str, T]:
        if self._of != changes():
            self._of, self._made = changes(), self._make()
        return self._made

    def __getitem__(self, name: str) -> T:
        return self._content()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._content())

    def __len__(self) -> int:
        return len(self._content())


RANGES = Live(lambda: {option.path: option.about.range for option in options() if option.about.range})
"""Minimum and maximum of each option that has them. None is allowed if the field may be None."""

CHOICES = Live(lambda: {option.path: tuple(option.about.choices) for option in options() if option.about.choices})
"""The allowed values of each; for a list, those of each item."""


def register(option: Option) -> Option:
    """Add an option to a section and return it; extensions call `extending.register`.

    From then on it has a flag, and is in `--help`, in files, in the checks and on the page;
    `config.train.my_option` (`option.of(config)`) is its value. Raises ValueError if it cannot be added.
    """
    sections = typing.get_type_hints(RunConfig)
    if option.section not in sections:
        raise ValueError(f"there is no section {option.section!r}; there are: {', '.join(sections)}")
    if known(option.path) or hasattr(sections[option.section], option.name):
        raise ValueError(f"the name {option.path} is taken")
    about, words = option.about, [(word, other) for other in options() for word in _words(other)]
    if taken := [(word, other.path) for word, other in words if word in _words(option)]:
        raise ValueError(f"{option.path}: {taken[0][0]!r} is the name of {taken[0][1]} already")
    if about.group not in GROUPS or about.level not in LEVELS:
        raise ValueError(f"{option.path}: the group must be of {GROUPS}, the level of {LEVELS}")
    if not fit(option.hint, option.default)[0] or (option.default is None and not about.unset):
        raise ValueError(f"{option.path}: the default does not fit, or `unset` does not say what happens without")
    add(option)
    return option


def _words(option: Option) -> tuple[str, ...]:
    """The names that no other option may have: flags, sd-scripts' names, the key in the metadata."""
    about = option.about
    return (*option.flags, *about.kohya, *filter(None, [about.metadata]))


def unregister(option: Option) -> None:
    """Remove a registered option; without effect if it is not registered."""
    remove(option)

"""Sections of a run's options: their fields, and the options registered from outside.

Options are registered with `table.register`; this file stores them and the values that a section has of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from lora_train.config.option import About
from lora_train.records.table import count_change

C = TypeVar("C")


@dataclass(frozen=True)
class Option:
    """One option of a run."""

    section: str
    """The section of `RunConfig`, for example "train"."""
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

    def of(self, config: object) -> Any:
        """Its value in `config`, a RunConfig."""
        return getattr(getattr(config, self.section), self.name)

    def put(self, config: C, value: Any) -> C:
        """`config`, a RunConfig, with this value."""
        section = changed(getattr(config, self.section), {self.name: value})
        return replace(config, **{self.section: section})  # type: ignore[type-var]


_OPTIONS: dict[str, Option] = {}
"""The registered options by path."""


def add(option: Option) -> None:
    """Add an option that `table.register` has checked."""
    _OPTIONS[option.path] = option
    count_change()


def remove(option: Option) -> None:
    """Remove a registered option; without effect if it is not registered."""
    if _OPTIONS.get(option.path) is option:
        del _OPTIONS[option.path]
        count_change()


def registered(section: str) -> tuple[Option, ...]:
    """The registered options of a section, in the order of registration."""
    return tuple(option for option in _OPTIONS.values() if option.section == section)


@dataclass(frozen=True)
class Section:
    """One section of a run's options: fields, and the values of registered options, which read like fields."""

    more: tuple[tuple[str, Any], ...] = field(default=(), kw_only=True, repr=False)
    """Name and value of each registered option that is not at its default, by name."""
    _section: ClassVar[str] = ""

    def __init_subclass__(cls, section: str) -> None:
        cls._section = section

    if not TYPE_CHECKING:  # a misspelt field remains a type error

        def __getattr__(self, name: str) -> Any:
            for one, value in self.__dict__.get("more", ()):
                if one == name:
                    return value
            option = _OPTIONS.get(f"{self._section}.{name}")
            if option is None:
                raise AttributeError(f"{type(self).__name__} has no option {name!r}")
            return option.default

    @classmethod
    def section_name(cls) -> str:
        """Its name in paths of options: "train"."""
        return cls._section

    def to_dict(self) -> dict[str, Any]:
        """Plain data: every field, and the registered options that are not at their defaults."""
        return {name: getattr(self, name) for name in own_names(type(self))} | dict(self.more)

    @classmethod
    def of_values(cls: type[S], values: Mapping[str, Any]) -> S:
        """The section with these values, of fields and of registered options."""
        return changed(cls(), values)


S = TypeVar("S", bound=Section)


def own_names(kind: type[Section]) -> tuple[str, ...]:
    """The names of a section's own fields."""
    return tuple(one.name for one in fields(kind) if one.name != "more")


def changed(section: S, values: Mapping[str, Any]) -> S:
    """`section` with these values, as `dataclasses.replace` does for fields alone."""
    own = set(own_names(type(section)))
    more = dict(section.more) | {name: value for name, value in values.items() if name not in own}
    defaults = {option.name: option.default for option in registered(type(section)._section)}
    kept = tuple(sorted((n, v) for n, v in more.items() if n not in defaults or v != defaults[n]))
    return replace(section, **{n: v for n, v in values.items() if n in own}, more=kept)

"""Tables of methods such as losses, noises and schedules: each a formula, a description and the options that it reads.

A formula may be in a module that imports torch. It is then given as "package.module:function" and imported on first
use, so that its name and its description are known without torch. `extending.register` adds a method from outside.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from lora_train.errors import LoraTrainError, Problem
from lora_train.records.table import Records, load


def nothing(config: Any) -> Mapping[str, object]:
    """The metadata of a method whose options are written there anyway: nothing."""
    return {}


@dataclass(frozen=True)
class Method:
    """One entry of a table; a call runs its formula."""

    name: str
    does: str
    """One line for the list of methods, like an option's help."""
    formula: Callable[..., Any] | str
    """A function with the table's signature, or its place: "package.module:function"."""
    options: tuple[str, ...] = ()
    """Paths of the options that it reads. In `Layers` the first one switches it on."""
    metadata: Callable[[Any], Mapping[str, object]] = nothing
    """A RunConfig to what is written into the file's metadata, with sd-scripts' keys if there are any."""
    kohya: tuple[str, ...] = ()
    """Its names in sd-scripts, if they differ (case is ignored)."""
    package: str = ""
    """The package that it imports, if it does not come with the program."""
    install: str = ""
    """That package's name for pip."""
    lacks: Callable[..., Problem | None] | str = ""
    """A function of the formula's first argument that returns what is missing for it, or the function's place."""
    outside: bool = False
    """Whether it is done elsewhere (by the WebUI) or not at all, and has no formula to call."""
    needs: str = ""
    """The feature of a family of base models that it needs (see `records.family.FEATURES`); "": none."""
    own_rate: bool = False
    """An optimizer that finds the learning rate itself: the given rate is one factor on it for all, usually 1."""
    own_schedule: bool = False
    """An optimizer that needs a constant rate after the warm-up, whichever schedule is chosen."""
    elementwise: bool = False
    """An optimizer that does the same to each element of each parameter, whatever the parameters' shapes."""

    def __call__(self, *given: Any) -> Any:
        return self.load()(*given)

    @property
    def missing(self) -> bool:
        """Whether its package is not installed."""
        return bool(self.package) and importlib.util.find_spec(self.package) is None

    def load(self) -> Callable[..., Any]:
        """The formula itself."""
        return _loaded(self.formula)

    def lacking(self, given: Any) -> Problem | None:
        """What is missing for it here, as far as can be seen without running it."""
        return _loaded(self.lacks)(given) if self.lacks else None  # type: ignore[no-any-return]


def _loaded(function: Callable[..., Any] | str) -> Callable[..., Any]:
    return load(function) if isinstance(function, str) else function  # type: ignore[no-any-return]


class Table(Records[Method]):
    """Methods of one signature by name, in the order of registration."""

    def __init__(self, title: str, *methods: Method) -> None:
        self.title = title
        """The heading of its list of methods, for example "losses"."""
        super().__init__(title, methods)

    def register(self, method: Method) -> Method:
        """Add a method and return it. Raises ValueError when its name is taken."""
        taken = {word for other in self.values() for word in (other.name, *other.kohya)}
        if {method.name, *method.kohya} & taken:
            raise ValueError(f"the name {method.name!r} is taken among the {self.title}")
        return super().register(method)

    def active(self, config: Any) -> tuple[Method, ...]:
        """The methods that a run uses, in the table's order."""
        raise NotImplementedError


class Choice(Table):
    """A run uses the one method that an option names."""

    def __init__(self, title: str, option: str, *methods: Method) -> None:
        super().__init__(title, *methods)
        self.option = option
        """Its path."""

    def of(self, config: Any) -> Method:
        """The method that a run uses. Raises LoraTrainError if there is none with that name."""
        name = value_at(config, self.option)
        if name not in self:
            raise LoraTrainError(f"{name!r} is not known.", self.option, f"Choose from: {', '.join(self)}.")
        return self[name]

    def active(self, config: Any) -> tuple[Method, ...]:
        """The chosen method; empty if its name is not known."""
        name = value_at(config, self.option)
        return (self[name],) if name in self else ()


class Layers(Table):
    """A run uses all the methods whose first option is not at its default, one after the other."""

    def active(self, config: Any) -> tuple[Method, ...]:
        """The methods that are switched on."""
        return tuple(one for one in self.values() if one.options and not is_default(config, one.options[0]))


def value_at(config: Any, path: str) -> Any:
    """The value of an option in a RunConfig."""
    section, _, name = path.partition(".")
    return getattr(getattr(config, section), name)


def is_default(config: Any, path: str) -> bool:
    """Whether an option of a RunConfig has its default."""
    section, _, name = path.partition(".")
    group = getattr(config, section)
    return bool(getattr(group, name) == getattr(type(group)(), name))

"""Tables of methods: losses, noises, schedules ... each a formula, a sentence, and the options that it reads.

A method's formula may lie where torch is imported: it is named as "package.module:function" and imported when it is
first used, so that its name and its sentence are known without. `extending.register` adds one from outside.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from lora_train.errors import LoraTrainError, Problem
from lora_train.records.table import count_change


def nothing(config: Any) -> Mapping[str, object]:
    """What a method writes into the metadata whose options say all that is to be said."""
    return {}


@dataclass(frozen=True)
class Method:
    """One entry of a table; called, it is its formula."""

    name: str
    does: str
    """One line for the list of methods, as an option's help."""
    formula: Callable[..., Any] | str
    """With the signature that the table says, or where it is: "package.module:function"."""
    options: tuple[str, ...] = ()
    """Paths of the options that it reads. In a table of `Layers` the first one switches it on."""
    metadata: Callable[[Any], Mapping[str, object]] = nothing
    """What it writes into the file's metadata, of a RunConfig; sd-scripts' keys where there are some."""
    kohya: tuple[str, ...] = ()
    """What sd-scripts calls it, where that is another name (case does not count)."""
    package: str = ""
    """What must be importable for it, of what does not come with the program."""
    install: str = ""
    """What pip calls that package."""
    lacks: Callable[..., Problem | None] | str = ""
    """Says what is missing here for it, of what the formula is given first; or where that function is."""
    outside: bool = False
    """Whether somebody else does it (the WebUI, or nobody): it has no formula to be called."""
    needs: str = ""
    """What a family of base models must have for it (see `records.family.FEATURES`); "": nothing."""
    own_rate: bool = False
    """An optimizer that finds the learning rate itself: what is given is a factor on it, usually 1, for all alike."""
    own_schedule: bool = False
    """An optimizer that needs a constant rate after the warm-up, whatever schedule is chosen."""

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
        """What is missing for it here, as far as can be seen without doing it."""
        return _loaded(self.lacks)(given) if self.lacks else None  # type: ignore[no-any-return]


def _loaded(function: Callable[..., Any] | str) -> Callable[..., Any]:
    if not isinstance(function, str):
        return function
    module, _, name = function.partition(":")
    return getattr(importlib.import_module(module), name)  # type: ignore[no-any-return]


class Table(Mapping[str, Method]):
    """Methods of one signature by name, in the order in which they came."""

    def __init__(self, title: str, *methods: Method) -> None:
        self.title = title
        """What its methods are, for the list of them: "losses"."""
        self._methods = {method.name: method for method in methods}

    def __getitem__(self, name: str) -> Method:
        return self._methods[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._methods)

    def __len__(self) -> int:
        return len(self._methods)

    def register(self, method: Method) -> Method:
        """Add a method and return it. Raises ValueError when its name is taken."""
        taken = {word for other in self.values() for word in (other.name, *other.kohya)}
        if {method.name, *method.kohya} & taken:
            raise ValueError(f"the name {method.name!r} is taken among the {self.title}")
        self._methods[method.name] = method
        count_change()
        return method

    def unregister(self, method: Method) -> None:
        """Take a method away; without effect where it is not there."""
        if self._methods.get(method.name) is method:
            del self._methods[method.name]
            count_change()

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
        """The method that a run uses. Raises LoraTrainError where there is none of that name."""
        name = value_at(config, self.option)
        if name not in self:
            raise LoraTrainError(f"{name!r} is not known.", self.option, f"Choose from: {', '.join(self)}.")
        return self[name]

    def active(self, config: Any) -> tuple[Method, ...]:
        """See Table; none where the name is not known."""
        name = value_at(config, self.option)
        return (self[name],) if name in self else ()


class Layers(Table):
    """A run uses all the methods whose first option is not at its default, one after the other."""

    def active(self, config: Any) -> tuple[Method, ...]:
        """See Table."""
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

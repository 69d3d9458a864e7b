"""Tables with registration, and lists of names that follow them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib import import_module
from typing import Any, Protocol, TypeVar, overload

_changes = [0]


def changes() -> int:
    """A number that grows with every registration or removal, for caches of what is made from the tables."""
    return _changes[0]


def count_change() -> None:
    """Called after every registration or removal."""
    _changes[0] += 1


class Record(Protocol):
    """An entry of a table."""

    @property
    def name(self) -> str:
        """Its name in options and in the API."""
        ...


R = TypeVar("R", bound=Record)


class Records(Mapping[str, R]):
    """Records by name, in the order in which they were added."""

    def __init__(self, what: str, records: Iterable[R] = ()) -> None:
        self._what = what
        self._records: dict[str, R] = {}
        for record in records:
            self.register(record)

    def register(self, record: R) -> R:
        """Add a record, which can then be chosen, read and written everywhere. Raises ValueError when the name is
        taken."""
        if record.name in self._records:
            raise ValueError(f"there is a {self._what} called {record.name!r} already")
        self._records[record.name] = record
        count_change()
        return record

    def unregister(self, record: R) -> None:
        """Remove a record; without effect if it is not registered."""
        if self._records.get(record.name) is record:
            del self._records[record.name]
            count_change()

    def __getitem__(self, name: str) -> R:
        return self._records[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._records)

    def __len__(self) -> int:
        return len(self._records)

    def names(self, which: Callable[[R], bool] = lambda record: True) -> Names:
        """The names of the records for which `which` is true, including those added later."""
        return Names(lambda: (name for name, record in self._records.items() if which(record)))


class Names(Sequence[str]):
    """Names that are computed on each access, so that later registrations are included."""

    def __init__(self, ask: Callable[[], Iterable[str]]) -> None:
        self._ask = ask

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[str]: ...

    def __getitem__(self, index: int | slice) -> str | Sequence[str]:
        return tuple(self._ask())[index]

    def __len__(self) -> int:
        return len(tuple(self._ask()))

    def __repr__(self) -> str:
        return repr(tuple(self._ask()))


def load(implementation: str) -> Any:
    """The object named by "package.module:Name", imported now."""
    module, _, name = implementation.partition(":")
    return getattr(import_module(module), name)

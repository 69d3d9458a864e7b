"""What is not trained on, and why: one file with its reason, or many counted by a reason that they share."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

SHOWN = 3
"""At most this many files or folders are named for a reason; the rest is counted."""


@dataclass(frozen=True)
class Rejected:
    """A file that is not trained on, and why in plain words."""

    path: Path
    reason: str


class Reason(NamedTuple):
    """Why several things are left out: what they are, in the singular and the plural."""

    one: str
    many: str


@dataclass
class LeftOut:
    """Counts by reason, each with the files or folders that they are in, as a person would name them."""

    counts: Counter[Reason] = field(default_factory=Counter)
    places: dict[Reason, list[str]] = field(default_factory=dict)

    def add(self, reason: Reason, place: str, count: int = 1) -> None:
        """Count `count` things at `place`: a file, or a folder with a trailing slash."""
        if count:
            self.counts[reason] += count
            named = self.places.setdefault(reason, [])
            if place not in named:
                named.append(place)

    def forget(self, reason: Reason) -> None:
        """Nothing is left out for this reason after all."""
        self.counts.pop(reason, None)
        self.places.pop(reason, None)

    def extend(self, other: LeftOut) -> None:
        """Add the counts of `other`."""
        for reason, count in other.counts.items():
            self.counts[reason] += count
            self.places.setdefault(reason, []).extend(other.places[reason])

    def line(self) -> str:
        """All in one line ("8 regularisation pictures (reg/), 1 broken link (a.png)"); "" where nothing is left out."""
        return ", ".join(self._part(reason, count) for reason, count in self.counts.items())

    def _part(self, reason: Reason, count: int) -> str:
        named = self.places[reason]
        more = ["..."] if len(named) > SHOWN else []
        return f"{count} {reason.one if count == 1 else reason.many} ({', '.join([*named[:SHOWN], *more])})"


def as_text(name: str) -> str:
    """A name from the file system in a form that can be shown and written, whatever its bytes."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def shown(name: str) -> str:
    """A name from the file system in a line for people: line ends and other control characters are escaped."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode("ascii") for one in as_text(name))

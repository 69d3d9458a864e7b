"""Errors that a person can mend: each says what is wrong, where, and what to do."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass

LONGEST_WORD, LONGEST_QUOTE, LONGEST_TEXT = 300, 300, 4000
"""Most characters of one thing that a message repeats (a name, a path), of one within quotes, of a whole message."""


def shortened(text: str, whole: bool = False) -> str:
    """A message with the names and paths in it cut to a readable length; `whole`: all of it is one such thing."""
    if len(text) <= LONGEST_QUOTE:
        return text
    if whole:
        return _cut(text, LONGEST_QUOTE)
    quoted = re.sub(
        r"""(?<!\w)(['"])((?:(?!\1).){300,})\1(?!\w)""", lambda found: _quote(found[1], found[2]), text, flags=re.S
    )
    words = re.sub(r"\S{300,}", lambda found: _cut(found[0], LONGEST_WORD), quoted)
    return _cut(words, LONGEST_TEXT)


def _quote(mark: str, text: str) -> str:
    return mark + _cut(text, LONGEST_QUOTE) + mark


def _cut(text: str, most: int) -> str:
    """The beginning, the end, and the whole length."""
    if len(text) <= most:
        return text
    part = most // 3
    return f"{text[:part]} ... {text[-part:]} ({len(text)} characters)"


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: `where` is a field ("train.max_train_steps") or a file."""

    what: str
    where: str = ""
    fix: str = ""

    def __post_init__(self) -> None:
        for field in ("what", "where", "fix"):
            object.__setattr__(self, field, shortened(getattr(self, field), whole=field == "where"))

    def __str__(self) -> str:
        text = f"{self.where}: {self.what}" if self.where else self.what
        return f"{text} {self.fix}" if self.fix else text

    def to_dict(self) -> dict[str, str]:
        """The problem as plain JSON data."""
        return asdict(self)


class LoraTrainError(Exception):
    """An error with a message for the person at the screen; the page and the command line show it as it is."""

    def __init__(self, what: str, where: str = "", fix: str = "") -> None:
        self.problems = [Problem(what, where, fix)]
        super().__init__(str(self.problems[0]))

    @classmethod
    def of(cls, problems: list[Problem]) -> LoraTrainError:
        """One error that reports all of `problems` together (at least one)."""
        error = cls(problems[0].what, problems[0].where, problems[0].fix)
        error.problems = list(problems)
        return error

    def __str__(self) -> str:
        return "\n".join(str(problem) for problem in self.problems)


class Unknown(LoraTrainError):
    """There is no such dataset, picture or run."""


class Stopped(Exception):
    """The person asked to stop; what is worth keeping has been saved by whoever raises this."""

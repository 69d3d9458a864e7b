"""Errors that a person can mend: each says what is wrong, where, and what to do."""

from __future__ import annotations

from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: `where` is a field ("train.max_train_steps") or a file."""

    what: str
    where: str = ""
    fix: str = ""

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


class Stopped(Exception):
    """The person asked to stop; what is worth keeping has been saved by whoever raises this."""

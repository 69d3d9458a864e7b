"""A parser that finds everything wrong with a command line, not only the first problem."""

from __future__ import annotations

import argparse
import difflib
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lora_train.config import kohya
from lora_train.errors import LoraTrainError, Problem

_NUMBERS = {int: "a whole number", float: "a number"}


class Switch(argparse.BooleanOptionalAction):
    """`--flag` and `--no-flag`, also with underscores, which argparse's own class accepts but ignores."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        super().__call__(parser, namespace, values, (option_string or "").replace("_", "-"))


class Parser(argparse.ArgumentParser):
    """Finds all problems. Every flag is also accepted with underscores, and under the names that `alias` adds."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named | {"allow_abbrev": False})
        self.problems: list[Problem] = []
        self.absent: Mapping[str, str] = {}
        """Flags of another tool that do not exist here, without dashes, and what to do instead."""

    def alias(self, names: Mapping[str, str]) -> None:
        """Let each name of `names` (without dashes) mean one of our flags; the help does not list it."""
        known = self._option_string_actions
        for name, flag in names.items():
            if flag in known:
                known.setdefault(f"--{name}", known[flag])

    def finish(self) -> None:
        """To be called once all arguments have been added, here and in the sub-commands."""
        known = self._option_string_actions
        for flag in [flag for flag in known if flag.startswith("--")]:
            known.setdefault("--" + flag[2:].replace("-", "_"), known[flag])
            known.setdefault("--" + flag[2:].replace("_", "-"), known[flag])
        for parser in self._commands():
            parser.problems = self.problems  # most are found by the command's own parser
            parser.set_defaults(parser=parser)
            parser.finish()

    def _commands(self) -> Iterator[Parser]:
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction):
                yield from action.choices.values()

    def parse(self, arguments: Sequence[str] | None) -> tuple[argparse.Namespace, list[Problem]]:
        """The options, with defaults where a value is wrong, and all problems.

        Raises LoraTrainError where the meaning cannot be known.
        """
        self.problems.clear()
        options, rest = self.parse_known_args(arguments)
        parser = self._used(options)
        options.repeated = parser._repeated(sys.argv[1:] if arguments is None else arguments)
        self.problems.extend(parser._unknown(rest))
        return options, list(self.problems)

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        """The options. Raises LoraTrainError with all problems."""
        options, found = self.parse(args)
        if found:
            raise LoraTrainError.of(found)
        return options

    def _repeated(self, arguments: Sequence[str]) -> list[str]:
        """The flags that are given several times though only their last value is used."""
        given: dict[str, set[str]] = {}
        for text, following in zip(arguments, [*arguments[1:], ""]):
            flag, equals, value = text.partition("=")
            action = self._option_string_actions.get(flag)
            if isinstance(action, argparse._StoreAction) and action.nargs is None:
                given.setdefault(max(action.option_strings, key=len), set()).add(value if equals else following)
        return [flag for flag, values in given.items() if len(values) > 1]

    def _used(self, options: argparse.Namespace) -> Parser:
        """The parser of the command that was given."""
        return getattr(options, "parser", self)  # type: ignore[no-any-return]

    def _unknown(self, rest: Sequence[str]) -> Iterator[Problem]:
        """One problem for each unknown flag; what follows it is taken for its value."""
        after_flag = False
        for text, following in zip(rest, [*rest[1:], None]):
            if re.match(r"--?[A-Za-z]", text):
                flag, equals, value = text.partition("=")
                unset = (equals or following == "") and not value
                after_flag = True
                if not (unset and _plain(flag) in self.absent):
                    yield self._unknown_flag(flag)
            elif not after_flag:
                yield Problem(f"{text!r} belongs to no option.", "", "Put quotes around values with spaces.")

    def _unknown_flag(self, flag: str) -> Problem:
        if _plain(flag) in self.absent:
            return self.absent_flag(flag)
        mine = {name: action.option_strings for name, action in self._option_string_actions.items()}
        near = difflib.get_close_matches(flag, mine, 1, 0.6)
        shown = near[0] if near and near[0] in mine[near[0]] else next(iter(mine[near[0]]), "") if near else ""
        return Problem("there is no such option.", flag, f"Did you mean {shown}?" if shown else "See --help.")

    def absent_flag(self, flag: str, how: str = "") -> Problem:
        """The problem with a flag of `absent`; `how` it was given."""
        fix = self.absent[_plain(flag)] or "Leave it out."
        return Problem(f"there is no such option {how}here; sd-scripts has it.", flag, fix)

    def _get_values(self, action: argparse.Action, arg_strings: list[str]) -> Any:
        if isinstance(action, argparse._SubParsersAction):
            return super()._get_values(action, arg_strings)  # type: ignore[misc]
        names = {_plain(flag) for flag in action.option_strings}
        if names & kohya.MAY_BE_EMPTY and arg_strings and arg_strings[0].strip().lower() in ("", "none"):
            return action.default
        try:
            return super()._get_values(action, [_usual(action, text) for text in arg_strings])  # type: ignore[misc]
        except argparse.ArgumentError as error:
            self.problems.append(_bad_value(action, arg_strings, error))
            return action.default

    def error(self, message: str) -> Any:
        """Errors after which argparse cannot continue."""
        found = re.match(r"argument (\S+?)(?:/\S+)?: (.*)", message, re.DOTALL)
        where, what = (found[1], found[2]) if found else ("", message)
        if found and "invalid choice" in what:
            given = re.search(r"invalid choice: '(.*?)'", what)
            names = self._names()
            near = difflib.get_close_matches(given[1] if given else "", names, 1)
            what = f"there is no command {given[1]!r}." if given else what
            fix = f"Did you mean {near[0]}?" if near else f"There are: {', '.join(names)}."
            raise LoraTrainError.of([*self.problems, Problem(what, "", fix)])
        what = what.replace("expected one argument", "needs a value").rstrip(".") + "."
        raise LoraTrainError.of([*self.problems, Problem(what, where, "See --help.")])

    def _names(self) -> list[str]:
        return [
            name
            for action in self._actions
            if isinstance(action, argparse._SubParsersAction)
            for name in action.choices
        ]


def _plain(flag: str) -> str:
    return flag.lstrip("-").replace("-", "_")


def _usual(action: argparse.Action, text: str) -> str:
    """A value under its name here."""
    for flag in action.option_strings:
        named = {theirs.lower(): ours for theirs, ours in kohya.VALUES.get(flag, {}).items()}
        text = named.get(text.lower(), text)
    if action.choices and text not in action.choices:
        return next((str(choice) for choice in action.choices if str(choice).lower() == text.lower()), text)
    return text


def _bad_value(action: argparse.Action, given: Sequence[str], error: argparse.ArgumentError) -> Problem:
    where = max(action.option_strings, key=len, default=action.metavar or action.dest)
    text = " ".join(given)
    if action.choices:
        near = difflib.get_close_matches(text, [str(choice) for choice in action.choices], 1)
        fix = f"Choose from: {', '.join(map(str, action.choices))}."
        return Problem(f"{text!r} is not known.", str(where), f"Did you mean {near[0]}? {fix}" if near else fix)
    what = f"{text!r} is not {_NUMBERS[action.type]}." if action.type in _NUMBERS else f"{error.message}."  # type: ignore[index]
    return Problem(what, str(where), "Give another value.")

"""Flags made from the table of options, and a run's sections made from the given flags."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from lora_train.cli.parser import Switch
from lora_train.config.arguments import algorithms
from lora_train.config.option import COMMAS, GROUPS, REPEATED, WORDS
from lora_train.config.registered import Section, changed
from lora_train.config.table import Option, in_section
from lora_train.config.values import item_type, parse_written, plain_type, sides_of

S = TypeVar("S", bound=Section)


def add_options(parser: Any, options: Iterable[Option], defaults: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """A flag for each of `options`, in the groups of the table. Returns these by name, for more options that belong
    there.

    A flag that is not given is None in the namespace. `defaults` (by path) are this command's own, for the help.
    """
    groups: dict[str, Any] = {}
    options = list(options)
    for name in dict.fromkeys([*GROUPS, *(option.about.group for option in options)]):
        for option in options:
            if option.about.group == name and option.flags:
                group = groups.setdefault(name, None) or parser.add_argument_group(name)
                groups[name] = group
                add_flag(group, option, (defaults or {}).get(option.path))
    return groups


def add_flag(parser: Any, option: Option, default: Any = None) -> None:
    """The flag or argument of one option; `default` is what its help says in place of the table's."""
    parser.add_argument(*option.flags, default=None, help=_help(option, default), **_keywords(option))


def given(namespace: argparse.Namespace, section: str) -> dict[str, Any]:
    """The values of the flags that were given, by the names of the section's options."""
    values = {option.name: getattr(namespace, _destination(option), None) for option in in_section(section)}
    if isinstance(sides := values.get("resolution"), tuple):
        values["resolution"] = sides[0]
        values["height"] = sides[1] if values["height"] is None else values["height"]
    return {n: tuple(value) if isinstance(value, list) else value for n, value in values.items() if value is not None}


def with_given(options: S, namespace: argparse.Namespace, section: str) -> S:
    """A section of the run with what the flags say; where none was given it stays."""
    return changed(options, given(namespace, section))


def _destination(option: Option) -> str:
    return option.flags[0].lstrip("-").replace("-", "_") if option.flags else ""


def _help(option: Option, default: Any = None) -> str:
    """The help text, with what happens when the flag is not given."""
    about, shown = option.about, ""
    value = option.default if default is None else default
    if value in (None, "", ()):
        shown = about.unset
    elif isinstance(value, tuple):
        shown = ",".join(value)
    elif not isinstance(value, bool):
        shown = f"{value:g}" if isinstance(value, float) else f'"{value}"' if " " in str(value) else str(value)
    elif value:
        shown = "on"
    ways = {REPEATED: "may be repeated", COMMAS: "separated by commas"}
    text = f"{about.help}; {ways[about.written]}" if about.written in ways else about.help
    return (f"{text} (default: {shown})" if shown else text).replace("%", "%%")


def _keywords(option: Option) -> dict[str, Any]:
    """What argparse needs to know about the flag's value."""
    hint, about = plain_type(option.hint), option.about
    if hint is bool:
        return {"action": Switch if option.default is not False else "store_true"}
    keywords: dict[str, Any] = {"metavar": about.metavar or None}
    if option.path in _READ:
        keywords["type"] = _READ[option.path]
    elif item_type(hint):
        keywords["type"] = str if about.written in (REPEATED, WORDS) else _reader(option)
    elif hint is not str:
        keywords["type"] = hint
    if about.written == REPEATED:
        keywords["action"] = "append"
    elif about.written == WORDS:
        keywords |= {"nargs": "*", "action": "extend"}
    elif about.choices and not item_type(hint):
        keywords["choices"] = _NAMED[option.path]() if option.path in _NAMED else tuple(about.choices)
    return keywords


def _reader(option: Option) -> Callable[[str], Any]:
    def read(text: str) -> Any:
        try:
            return parse_written(option.hint, option.about.written, text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return read


def _sides(text: str) -> tuple[int, int | None]:
    """A resolution, and the height where it differs: "512", "512x768", also in sd-scripts' form "512,768"."""
    sides = sides_of(text)
    if sides is None:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number of pixels nor width and height (512x768)")
    return sides


def _name(text: str) -> str:
    return text.removesuffix(".safetensors")


_READ: dict[str, Callable[[str], Any]] = {"data.resolution": _sides, "save.output_name": _name}
"""Those whose text at the command line is read in a way of its own."""
_NAMED: dict[str, Callable[[], tuple[str, ...]]] = {"network.kind": lambda: tuple(algorithms())}
"""Those that have other names at the command line."""

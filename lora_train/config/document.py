"""All options as a page, made from their table: `python -m lora_train.config.document docs/options.md` writes it."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from lora_train.atomic import write_text
from lora_train.config import captioning_methods, training_methods
from lora_train.config.option import GROUPS
from lora_train.config.sections.captions import EDITS
from lora_train.config.table import COMMANDS, Option, in_section, options
from lora_train.config.values import describe
from lora_train.config.wording import concerns, flag_of, sentence
from lora_train.records.kinds import KINDS

MARK = "<!-- from here on written by python -m lora_train.config.document docs/options.md -->\n"
"""In a file with this line, the page replaces everything after it."""

COMMAND = """
## Options of `{command}`

{about}
"""
ABOUT = {
    "generate": "Also on the *Generate* page. A file for `generate --config FILE` has them in a section `generate`.",
    "captions": "Also on the *Dataset* page and, by the same names, in the API\n"
    "(`POST .../datasets/{id}/captions/edit`). Each change takes its own.",
}
"""What the page says of each command's options."""


def document() -> str:
    """The whole page as Markdown."""
    run = [
        line for group in GROUPS for line in _group(sentence(group), [o for o in options() if o.about.group == group])
    ]
    return "\n".join(["", *run, *_methods(), *_commands()])


def _group(title: str, members: Iterable[Option]) -> Iterator[str]:
    yield f"## {title}\n"
    yield from _table(members)


def _table(members: Iterable[Option]) -> Iterator[str]:
    yield "| name | label | flag | what it does | default | values | kohya |"
    yield "|---|---|---|---|---|---|---|"
    for option in members:
        yield f"| {' | '.join(_cell(cell) for cell in _cells(option))} |"
    yield ""


def _commands() -> Iterator[str]:
    """The options of other commands than a training's."""
    for command in COMMANDS:
        yield COMMAND.format(command=command, about=ABOUT[command])
        yield from _table(in_section(command))
    yield "| change | command | what it does | arguments |"
    yield "|---|---|---|---|"
    for one in EDITS:
        arguments = ", ".join(f"captions.{name}" for name in one.options)
        yield f"| {' | '.join(map(_cell, (one.operation, f'`{one.command}`', one.help, arguments)))} |"
    yield ""


def _methods() -> Iterator[str]:
    yield "## Methods\n"
    yield "The options above choose from these methods by name, or switch them on.\n"
    for table in (*training_methods.TABLES, *captioning_methods.TABLES):
        if table:
            yield f"### {table.title[0].upper()}{table.title[1:]}\n"
            yield "| name | what it is | options |"
            yield "|---|---|---|"
            for method in table.values():
                yield f"| {' | '.join(map(_cell, (method.name, method.does, ', '.join(method.options))))} |"
            yield ""
    yield "### Kinds of networks\n"
    yield "| name | what it is good for | options that are not every kind's |"
    yield "|---|---|---|"
    for kind in KINDS.values():
        named = ", ".join(f"network.{option}" for option in kind.options)
        yield f"| {' | '.join(map(_cell, (', '.join((kind.name, *kind.spellings)), kind.help, named)))} |"
    yield ""


def _cells(option: Option) -> Iterator[str]:
    about = option.about
    yield f"**{option.path}**" if about.level == "first" else option.path
    yield about.label
    yield ", ".join(f"`{flag}`" for flag in option.flags or (flag_of(option),))
    yield about.help + (f" ({concerns(option)})" if concerns(option) else "")
    yield about.unset if option.default in (None, "", ()) else f"`{_value(option.default)}`"
    yield _values(option)
    yield ", ".join(f"`{name}`" for name in about.kohya)


def _values(option: Option) -> str:
    about = option.about
    if about.choices:
        return ", ".join(f"`{choice}`" for choice in about.choices)
    if about.range:
        low, high = about.range
        return f"{describe(option.hint)} from {_value(low)} to {_value(high)}"
    return describe(option.hint)


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"{value:.10g}" if isinstance(value, float) else str(value)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def main(arguments: list[str]) -> int:
    """Write the page to the named file, after its MARK; without a file, to standard output."""
    if not arguments:
        print(document(), end="")
        return 0
    path = Path(arguments[0])
    before, mark, _ = (path.read_text(encoding="utf-8") if path.exists() else "").partition(MARK)
    if before and not mark:
        print(f"{path} is written by hand: it has no line {MARK}", file=sys.stderr)
        return 2
    write_text(path, f"{before}{mark}{document()}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

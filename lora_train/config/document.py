"""All options as a page, made from their table: `python -m lora_train.config.document FILE` writes it to FILE."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lora_train.atomic import write_text
from lora_train.config import captioning_methods, training_methods
from lora_train.config.option import GROUPS
from lora_train.config.table import Option, options
from lora_train.config.values import describe
from lora_train.config.wording import concerns, flag_of, sentence
from lora_train.records.kinds import KINDS

MARK = "<!-- from here on written by python -m lora_train.config.document docs/command-line.md -->\n"
"""In a file with this line, the page replaces everything after it."""

HEAD = """
## All options

The options of `train`, under the headings of its `--help`. The names are those of `--config FILE`, of
`--set section.name=value` and of the API; the flags are for the command line, which also accepts kohya's names. Bold
names are the basic options. The descriptions are in `lora_train/config/sections/`.
"""


def document() -> str:
    """The whole page as Markdown."""
    return "\n".join([HEAD, *(line for group in GROUPS for line in _group(group)), *_methods()])


def _group(group: str) -> Iterator[str]:
    yield f"### {sentence(group)}\n"
    yield "| name | flag | what it does | default | values | kohya |"
    yield "|---|---|---|---|---|---|"
    for option in options():
        if option.about.group == group:
            yield f"| {' | '.join(_cell(cell) for cell in _cells(option))} |"
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
    """Write the page to the named file, after its MARK if it has one; without a file, to standard output."""
    if not arguments:
        print(document(), end="")
        return 0
    path = Path(arguments[0])
    before, mark, _ = (path.read_text(encoding="utf-8") if path.exists() else "").partition(MARK)
    write_text(path, f"{before}{mark}{document()}" if mark else document())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

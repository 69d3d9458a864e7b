"""`--config FILE` and `--set SECTION.NAME=VALUE`, which every command with options of the table has."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, TypeVar

from lora_train.cli.options import with_given
from lora_train.config.files import read_section, set_section
from lora_train.config.registered import Section
from lora_train.config.validate import section_problems
from lora_train.errors import LoraTrainError, Problem

S = TypeVar("S", bound=Section)


def add_config(parser: Any, example: str, kinds: str = "JSON or TOML") -> Any:
    """Add both; `example` is a setting, `kinds` says which files are read. Returns their group."""
    group = parser.add_argument_group("options in files")
    group.add_argument("--config", metavar="FILE", help=f"take options from this file ({kinds}); flags win")
    group.add_argument(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="SECTION.NAME=VALUE",
        help=f"set any option by its name in such a file: {example} ...; wins over its flag",
    )
    return group


def section_asked(kind: type[S], options: argparse.Namespace) -> tuple[S, list[Problem]]:
    """The options of a command: those of --config, changed by flags, then by --set; and all problems."""
    found: list[Problem] = []
    asked = kind()
    try:
        if options.config is not None:
            asked = read_section(Path(options.config).expanduser(), kind)
    except LoraTrainError as error:
        found += error.problems
    asked = with_given(asked, options, kind.section_name())
    try:
        asked = set_section(asked, options.set)
    except LoraTrainError as error:
        found += error.problems
    return asked, found + section_problems(asked)

"""The command line: one file per command, listed in `ADD`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

from lora_train.cli.captions import add_captions
from lora_train.cli.dataset import add_dataset
from lora_train.cli.demo import add_demo
from lora_train.cli.file import add_file
from lora_train.cli.generate import add_generate
from lora_train.cli.parser import Parser
from lora_train.cli.prepare import add_prepare
from lora_train.cli.preset import add_preset
from lora_train.cli.train import add_resume, add_train
from lora_train.cli.ui import add_ui
from lora_train.config.wording import in_flags
from lora_train.console import forgive_characters
from lora_train.cores import settle_threads
from lora_train.errors import LoraTrainError
from lora_train.showing import as_shown
from lora_train.version import __version__

BAD_INPUT = 2
ABORTED = 130

ADD: tuple[Callable[[Any], None], ...] = (
    add_train,
    add_prepare,
    add_preset,
    add_captions,
    add_dataset,
    add_resume,
    add_generate,
    add_file,
    add_demo,
    add_ui,
)
"""Functions that each add a command to the parser."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command. Returns the exit code: 0, 2 for errors that the person can fix, 130 when stopped."""
    forgive_characters()
    try:
        settle_threads()
        parser = build_parser()
        options, found = parser.parse(arguments)
        if found:
            more = getattr(options, "precheck", None)  # the problems that a command finds without doing anything
            raise LoraTrainError.of(found + (more(options) if more else []))
        for flag in options.repeated:
            print(f"note: {flag} is given several times; the last one is used.", file=sys.stderr)
        return int(options.run(options))
    except LoraTrainError as error:
        for problem in error.problems:
            print(f"error: {as_shown(in_flags(str(problem)))}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print("\nAborted.", file=sys.stderr)
        return ABORTED
    except BrokenPipeError:
        return 0
    except OSError as error:
        where = f"{as_shown(str(error.filename)[:200], lines=False)}: " if error.filename else ""
        print(f"error: {where}{error.strerror or error}.", file=sys.stderr)
        return BAD_INPUT


def build_parser() -> Parser:
    """All commands and their options."""
    parser = Parser(prog="lora-train", description="Train LoRAs for Stable Diffusion.")
    parser.add_argument("--version", action="version", version=f"lora-train {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for add in ADD:
        add(commands)
    parser.finish()
    return parser

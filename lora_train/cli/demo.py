"""`lora-train demo` and its checkpoint."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def add_demo(commands: Any) -> None:
    """The command "demo"."""
    demo = commands.add_parser(
        "demo", help="train the mascot's LoRA on the tiny base model that ships with this package"
    )
    demo.add_argument("--out", type=Path, default=Path("demo/out"), help="default %(default)s")
    demo.set_defaults(run=_demo)
    inner = demo.add_subparsers(metavar="COMMAND")
    export = inner.add_parser("export-checkpoint", help="write the tiny base as one checkpoint for a WebUI")
    export.add_argument("folder", type=Path, metavar="DIR")
    export.add_argument("--overwrite", action="store_true", help="replace existing files")
    export.set_defaults(run=_export)


def _demo(options: argparse.Namespace) -> int:
    from lora_train.cli.demo_command import run_demo

    return run_demo(options.out)


def _export(options: argparse.Namespace) -> int:
    from lora_train.demo.checkpoint import export_checkpoint

    for path in export_checkpoint(options.folder, options.overwrite):
        print(path)
    return 0

"""`lora-train prepare`: the operations on a folder of pictures."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from lora_train.cli.hosts import add_server, host_of
from lora_train.config import PrepareOptions, RunConfig
from lora_train.config.validate import PREPARE_OPERATIONS
from lora_train.errors import LoraTrainError


def add_prepare(commands: Any) -> None:
    """The command "prepare"."""
    prepare = commands.add_parser(
        "prepare",
        help="prepare a folder of pictures: crop faces and bodies, reject blurred and similar ones ...",
        description="Do the operations to a copy of the pictures, and say what became of each and why.",
    )
    prepare.add_argument(
        "--input", required=True, metavar="FOLDER", help="folder of pictures; nothing is written there"
    )
    add_operations(prepare, "original,blur,range,similar,resize")
    add_server(prepare)
    prepare.set_defaults(run=_prepare, offline=False, shutdown=False)


def add_operations(parser: Any, default: str) -> None:
    """The options of the operations; `default` is the list that is on."""
    group = parser.add_argument_group("operations on the pictures")
    group.add_argument(
        "--process",
        default=default,
        metavar="LIST",
        help=f"operations separated by commas, of: {', '.join(PREPARE_OPERATIONS)} (default: {default or 'none'})",
    )
    group.add_argument("--target", type=int, metavar="PIXELS", help="longest side of a prepared picture (default 512)")
    group.add_argument("--min-size", type=int, metavar="PIXELS", help="reject what is smaller (default: the target)")
    group.add_argument("--blur-score", type=float, default=1.8, help="reject above it (default %(default)s)")
    group.add_argument("--range-score", type=float, default=0.15, help="reject below it (default %(default)s)")
    group.add_argument("--similar-score", type=float, default=0.8, help="reject above it (default %(default)s)")


def prepare_of(options: argparse.Namespace) -> PrepareOptions:
    """The preparation that the options ask for."""
    return PrepareOptions(
        operations=tuple(name.strip() for name in options.process.split(",") if name.strip()),
        target=options.target,
        min_size=options.min_size,
        max_blur=options.blur_score,
        min_range=options.range_score,
        max_similarity=options.similar_score,
    )


def _prepare(options: argparse.Namespace) -> int:
    from lora_train.config import problems
    from lora_train.data.prepare import prepare
    from lora_train.data.scan import require_folder
    from lora_train.runs.preparing import services_of, work_folder
    from lora_train.runs.terminal import ProgressBar

    host, wanted, folder = host_of(options), prepare_of(options), Path(options.input)
    found = [p for p in problems(RunConfig(prepare=wanted)) if p.where.startswith("prepare.")]
    try:
        require_folder(folder)
    except LoraTrainError as error:
        found += error.problems
    if found:
        raise LoraTrainError.of(found)
    bar, work = ProgressBar(), work_folder(folder, host)
    prepared = prepare(
        folder,
        wanted,
        work,
        services_of(host, wanted),
        lambda done, total: bar.on_event({"kind": "prepare", "done": done, "total": total}),
    )
    bar.close()
    for note in prepared.notes:
        print(f"note: {note}", file=sys.stderr)
    print(prepared.line())
    print(f"Pictures  {prepared.folder}")
    print(f"Report    {prepared.report}")
    return 0

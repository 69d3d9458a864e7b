"""`lora-train prepare`: the operations on folders of pictures."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_train.cli.from_files import add_config
from lora_train.cli.hosts import add_server, host_of
from lora_train.cli.options import add_options, with_given
from lora_train.config import PrepareOptions, RunConfig
from lora_train.config.files import read_options, set_options
from lora_train.config.option import CAPTIONS, OPERATIONS
from lora_train.config.table import in_section
from lora_train.errors import LoraTrainError, Problem

if TYPE_CHECKING:
    from lora_train.hosts.base import Host
    from lora_train.prepare import Prepared

SDXL_TARGET = 1024
ON = ("original", "blur", "range", "similar", "resize")
"""The operations of `prepare` where none is given."""


def add_prepare(commands: Any) -> None:
    """The command "prepare"."""
    prepare = commands.add_parser(
        "prepare",
        help="prepare folders of pictures: crop faces and bodies, reject blurred and similar ones, caption ...",
        description="Apply the operations to a copy of the pictures, and report the outcome of each and why.",
    )
    prepare.add_argument(
        "--input",
        action="append",
        default=[],
        metavar="FOLDER",
        help="folder of pictures; nothing is written there. May be repeated: each becomes a dataset of its own",
    )
    prepare.add_argument("--tag", default=None, help="activation tag(s), placed by the caption template")
    prepare.add_argument("--offline", action="store_true", help="use nothing that needs a WebUI")
    add_operations(add_options(prepare, in_section("prepare"), {"prepare.operations": ON}))
    add_config(prepare, "prepare.target=768 data.tag=sks", "as train --config takes it")
    add_server(prepare)
    prepare.set_defaults(run=_prepare, shutdown=False)


def add_operations(groups: dict[str, Any]) -> None:
    """Add what belongs to the groups of the operations besides the table's options."""
    groups[OPERATIONS].add_argument(
        "--sdxl", action="store_true", help=f"prepare for SDXL: the default target is {SDXL_TARGET}"
    )
    groups[CAPTIONS].add_argument(
        "--nocaptions", action="store_true", help="make no captions (switches interrogate off)"
    )


def prepare_of(options: argparse.Namespace, before: PrepareOptions | None = None) -> PrepareOptions:
    """`before` (None: the defaults) changed by the flags."""
    prepare = with_given(before or PrepareOptions(), options, "prepare")
    if options.nocaptions:
        prepare = replace(prepare, operations=tuple(name for name in prepare.operations if name != "interrogate"))
    if options.sdxl and options.target is None:
        prepare = replace(prepare, target=SDXL_TARGET)
    return prepare


def asked_of(options: argparse.Namespace) -> RunConfig:
    """The preparation asked for, in the options of a run; its folder of pictures counts where --input names none.

    Raises LoraTrainError with everything that is not understood.
    """
    from lora_train.hosts.allowing import noting

    found: list[Problem] = []
    asked = RunConfig()
    with noting(found, "--config"):
        if options.config is not None:
            asked, lines = read_options(Path(options.config).expanduser())
            for line in lines:
                print(f"note: {options.config}: {line}", file=sys.stderr)
    if not asked.prepare.operations:
        asked = replace(asked, prepare=replace(asked.prepare, operations=ON))
    tag = asked.data.tag if options.tag is None else options.tag
    asked = replace(asked, prepare=prepare_of(options, asked.prepare), data=replace(asked.data, tag=tag))
    with noting(found, "--set"):
        asked = set_options(asked, options.set)
    if found:
        raise LoraTrainError.of(found)
    return asked


def _prepare(options: argparse.Namespace) -> int:
    from lora_train.config import problems
    from lora_train.data.scan import require_folder
    from lora_train.data.shards import SHARDS, without_shards
    from lora_train.datasets.captioning import captioning_problems, server_problems
    from lora_train.hosts.allowing import noting

    host, config = host_of(options), asked_of(options)
    wanted = config.prepare
    named = options.input or list(filter(None, [config.data.folder]))
    folders: list[Path] = []
    found = [p for p in problems(config) if p.where.startswith(("prepare.", "data.tag"))]
    found += captioning_problems(wanted, host) + server_problems(wanted, host)
    if not wanted.operations:
        found.append(
            Problem("no operation is on.", "prepare.operations", "Give --process original,resize, for example.")
        )
    if "" in named or not named:  # Path would take it for the current folder
        found.append(Problem("no folder is named.", "--input", "Give the folder that holds your pictures."))
    for name in dict.fromkeys(named):
        with noting(found, f"--input {name}"):
            folders.append(Path(name).expanduser())
            require_folder(folders[-1])
    if found:
        raise LoraTrainError.of(found)
    failed: list[Problem] = []
    for folder in folders:
        try:
            prepared = _prepare_one(Path(without_shards(str(folder), host.data_dir() / SHARDS)), config, host)
            _show(prepared)
            if not prepared.summary["kept"]:
                fix = "The report says why; lower the limits."
                failed.append(Problem("none of the pictures was kept.", str(folder), fix))
        except LoraTrainError as error:  # the other folders may be fine
            failed += error.problems
    if failed:
        raise LoraTrainError.of(failed)
    return 0


def _prepare_one(folder: Path, config: RunConfig, host: Host) -> Prepared:
    from lora_train.prepare import prepare
    from lora_train.runs.preparing import alone_in, services_of, work_folder
    from lora_train.runs.terminal import ProgressBar

    bar = ProgressBar()
    stage = ["pictures"]

    def staged(name: str) -> None:
        stage[0] = name

    def progress(done: int, total: int) -> None:
        bar.on_event({"kind": "prepare", "stage": stage[0], "done": done, "total": total})

    work = work_folder(folder, host)
    try:
        with alone_in(work):
            return prepare(
                folder,
                config.prepare,
                work,
                services_of(host, config.prepare),
                progress,
                tag=config.data.tag,
                stage=staged,
                note=lambda text: bar.on_event({"kind": "note", "text": text}),
            )
    finally:
        bar.close()


def _show(prepared: Prepared) -> None:
    print(prepared.line())
    print(f"Pictures  {prepared.folder}")
    if prepared.masks:
        print(f"Masks     {prepared.masks} (for --masked-loss --mask-folder)")
    print(f"Metadata  {prepared.metadata}")
    print(f"Report    {prepared.report}", flush=True)
    sys.stderr.flush()

"""`lora-train prepare`: the operations on folders of pictures."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_train.cli.hosts import add_server, host_of, without_shards
from lora_train.config import DataOptions, PrepareOptions, RunConfig
from lora_train.config.choices import CAPTIONERS, PREPARE_OPERATIONS, TAGGERS
from lora_train.errors import LoraTrainError, Problem

if TYPE_CHECKING:
    from lora_train.data.prepare import Prepared
    from lora_train.hosts.base import Host

SDXL_TARGET = 1024
DEFAULTS = PrepareOptions()


def add_prepare(commands: Any) -> None:
    """The command "prepare"."""
    prepare = commands.add_parser(
        "prepare",
        help="prepare folders of pictures: crop faces and bodies, reject blurred and similar ones, caption ...",
        description="Do the operations to a copy of the pictures, and say what became of each and why.",
    )
    prepare.add_argument(
        "--input",
        required=True,
        action="append",
        metavar="FOLDER",
        help="folder of pictures; nothing is written there. May be repeated: each becomes a dataset of its own",
    )
    prepare.add_argument("--tag", default="", help="activation tag(s), put where the caption template says")
    prepare.add_argument("--offline", action="store_true", help="use nothing that needs a WebUI")
    add_operations(prepare, "original,blur,range,similar,resize")
    add_server(prepare)
    prepare.set_defaults(run=_prepare, shutdown=False)


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
    group.add_argument("--sdxl", action="store_true", help=f"prepare for SDXL: the default target is {SDXL_TARGET}")
    group.add_argument("--min-size", type=int, metavar="PIXELS", help="reject what is smaller (default: the target)")
    group.add_argument("--background", default=DEFAULTS.background, metavar="#RRGGBB", help="default %(default)s")
    group.add_argument("--upscaler", default="", metavar="NAME", help="the WebUI's upscaler (default: its best)")
    for flag, name, help in (
        ("--face-score", "face_score", "how sure the detector of faces must be"),
        ("--face-pad", "face_pad", "room on each side of a face, as a share of its longer side"),
        ("--body-score", "body_score", "how sure the detector of bodies must be"),
        ("--body-pad", "body_pad", "room around a body, as a share of its sides"),
        ("--body-visibility", "body_visibility", "from this on a part of a body is seen"),
        ("--body-parts", "body_parts", "so many parts (of 33) must be seen"),
        ("--restore-weight", "restore_weight", "CodeFormer's weight; 0 restores most"),
        ("--segment-threshold", "segment_threshold", "from this on a pixel belongs to the person"),
        ("--blur-score", "max_blur", "reject above it"),
        ("--range-score", "min_range", "reject below it"),
        ("--similar-score", "max_similarity", "reject above it"),
        ("--workers", "workers", "pictures in work at the same time; 0: as many as there are cores"),
    ):
        value = getattr(DEFAULTS, name)
        group.add_argument(flag, type=type(value), dest=name, default=value, help=f"{help} (default %(default)s)")
    _add_captions(parser.add_argument_group("captions and tags (the operation interrogate)"))


def _add_captions(group: Any) -> None:
    group.add_argument("--nocaptions", action="store_true", help="make none (interrogate is switched off)")
    group.add_argument("--captioner", choices=CAPTIONERS, default=DEFAULTS.captioner, help="default %(default)s")
    group.add_argument("--captioner-model", default="", metavar="MODEL", help="a transformers image-to-text model")
    group.add_argument("--captioner-command", default="", metavar="COMMAND", help="'PROGRAM ... {picture}'")
    group.add_argument("--tagger", choices=TAGGERS, default=DEFAULTS.tagger, help="default %(default)s")
    group.add_argument("--tagger-model", default="", metavar="MODEL", help="folder of a WD14 tagger")
    group.add_argument("--tagger-command", default="", metavar="COMMAND", help="'PROGRAM ... {picture}'")
    for flag, name, help in (
        ("--tag-limit", "tag_limit", "so many tags are kept; 0: all"),
        ("--tag-threshold", "tag_threshold", "from this probability on wd14 lists a tag"),
        ("--character-threshold", "character_threshold", "the same for characters"),
    ):
        value = getattr(DEFAULTS, name)
        group.add_argument(flag, type=type(value), default=value, help=f"{help} (default %(default)s)")
    group.add_argument("--tag-blacklist", default="", metavar="TAGS", help="never kept; separated by commas, * allowed")
    group.add_argument("--caption-template", default=DEFAULTS.caption_template, help='default "%(default)s"')
    group.add_argument("--recaption", action="store_true", help="also caption what has a caption (that file stays)")
    group.add_argument(
        "--backup", action="store_true", help="keep a caption that gives way beside the new one, as .bak"
    )
    group.add_argument("--caption-device", default="auto", help="auto, cpu, cuda or cuda:N (default %(default)s)")


def prepare_of(options: argparse.Namespace) -> PrepareOptions:
    """The preparation that the options ask for. Raises LoraTrainError for a command that cannot be split."""
    operations = [name.strip() for name in options.process.split(",") if name.strip()]
    if options.nocaptions:
        operations = [name for name in operations if name != "interrogate"]
    same = (
        *("min_size", "background", "face_score", "face_pad", "body_score", "body_pad", "body_visibility"),
        *("body_parts", "upscaler", "restore_weight", "segment_threshold", "max_blur", "min_range"),
        *("max_similarity", "workers", "captioner", "captioner_model", "tagger", "tagger_model", "tag_limit"),
        *("tag_threshold", "character_threshold", "caption_template", "recaption", "backup", "caption_device"),
    )
    return PrepareOptions(
        operations=tuple(operations),
        target=SDXL_TARGET if options.sdxl and options.target is None else options.target,
        captioner_command=_split(options.captioner_command, "--captioner-command"),
        tagger_command=_split(options.tagger_command, "--tagger-command"),
        tag_blacklist=tuple(tag.strip() for tag in options.tag_blacklist.split(",") if tag.strip()),
        **{name: getattr(options, name) for name in same},
    )


def _split(command: str, flag: str) -> tuple[str, ...]:
    try:
        return tuple(shlex.split(command))
    except ValueError as error:
        raise LoraTrainError(f"the command cannot be read ({error}).", flag, "Check its quotes.") from error


def _prepare(options: argparse.Namespace) -> int:
    from lora_train.config import problems
    from lora_train.data.scan import require_folder
    from lora_train.runs.captioning import captioning_problems, server_problems
    from lora_train.runs.check import noting

    host, wanted = host_of(options), prepare_of(options)
    config = RunConfig(data=DataOptions(tag=options.tag), prepare=wanted)
    folders: list[Path] = []
    found = [p for p in problems(config) if p.where.startswith("prepare.")]
    found += captioning_problems(wanted, host) + server_problems(wanted, host)
    if not wanted.operations:
        found.append(
            Problem("no operation is on.", "prepare.operations", "Give --process original,resize, for example.")
        )
    if "" in options.input:  # Path would take it for the present folder
        found.append(Problem("no folder is named.", "--input", "Give the folder that holds your pictures."))
    for name in dict.fromkeys(options.input):
        with noting(found, f"--input {name}"):
            folders.append(Path(name).expanduser())
            require_folder(folders[-1])
    if found:
        raise LoraTrainError.of(found)
    failed: list[Problem] = []
    for folder in folders:
        try:
            prepared = _prepare_one(Path(without_shards(str(folder), host)), config, host)
            _show(prepared)
            if not prepared.summary["kept"]:
                fix = "The report says why; lower the limits."
                failed.append(Problem("none of the pictures was kept.", str(folder), fix))
        except LoraTrainError as error:  # the other folders may be well
            failed += error.problems
    if failed:
        raise LoraTrainError.of(failed)
    return 0


def _prepare_one(folder: Path, config: RunConfig, host: Host) -> Prepared:
    from lora_train.data.prepare import prepare
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

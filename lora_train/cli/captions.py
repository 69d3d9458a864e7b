"""`lora-train captions`: how often tags occur, and changes to all captions below a folder, with undo."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_train.cli.options import add_flag, with_given
from lora_train.config.sections.captions import EDITS, CaptionsOptions
from lora_train.config.table import find

if TYPE_CHECKING:
    from lora_train.captions.edit import Edit
    from lora_train.captions.journal import Report


def add_captions(commands: Any) -> None:
    """The command "captions"."""
    captions = commands.add_parser(
        "captions",
        help="change all captions below a folder, with undo; count tags",
        description="Count tags, or change the caption files (.txt, .caption) beside all pictures below a folder.",
    )
    captions.add_argument("folder", type=Path, metavar="FOLDER", help="its caption files are written")
    inner = captions.add_subparsers(required=True, metavar="WHAT")
    inner.add_parser("frequency", help="how often each tag occurs").set_defaults(run=_frequency)
    for about in EDITS:
        parser = inner.add_parser(about.command, help=about.help)
        for name in (*about.options, "dry_run"):
            add_flag(parser, find(f"captions.{name}"))
        parser.set_defaults(run=_edit, about=about)
    inner.add_parser("undo", help="revert the last change in this folder").set_defaults(run=_undo)


def _frequency(options: argparse.Namespace) -> int:
    from lora_train.captions.journal import count_tags

    counts, skipped = count_tags(options.folder)
    for tag, count in counts.most_common():
        print(f"{count:6}  {tag}")
    for one in skipped:
        print(f"not counted: {one.path}: {one.reason}", file=sys.stderr)
    _report_bare(options.folder)
    return 0


def _edit(options: argparse.Namespace) -> int:
    from lora_train.captions.edit import edit_of
    from lora_train.captions.journal import edit_captions

    asked = with_given(CaptionsOptions(), options, "captions")
    values = {name: getattr(asked, name) for name in options.about.options}
    edits = [edit_of({"operation": options.about.operation, **values})]
    if asked.dry_run:
        return _preview(options.folder, edits)
    report = edit_captions(options.folder, edits, _journal(options.folder))
    print(f"{_captions(len(report.changed))} changed ({report.name}).")
    _report_skipped(report)
    _report_bare(options.folder)
    return 0


def _preview(folder: Path, edits: list[Edit]) -> int:
    from lora_train.captions.journal import preview_edits

    changes, skipped = preview_edits(folder, edits)
    for change in changes:
        print(change.file)
        print(f"  - {' '.join(change.before.split())}")
        print(f"  + {' '.join(change.after.split())}")
    print(f"{_captions(len(changes))} would change.")
    for one in skipped:
        print(f"left alone: {one.path}: {one.reason}")
    _report_bare(folder)
    return 0


def _undo(options: argparse.Namespace) -> int:
    from lora_train.captions.journal import undo

    report = undo(options.folder, _journal(options.folder))
    print(f"Undone: {report.name} ({_captions(len(report.changed))}).")
    _report_skipped(report)
    return 0


def _journal(folder: Path) -> Path:
    """The same as the *Dataset* page's, so that either can undo the other's edits."""
    from lora_train.datasets.dataset import journal_of
    from lora_train.hosts.standalone import StandaloneHost

    return journal_of(folder, StandaloneHost().data_dir())


def _report_skipped(report: Report) -> None:
    for one in report.skipped:
        print(f"left alone: {one.path}: {one.reason}")
    for copy in report.backups:
        print(f"kept a copy of what was written since: {copy}")


def _report_bare(folder: Path) -> None:
    """Report the pictures that are not among those counted or changed."""
    from lora_train.captions.journal import bare_pictures
    from lora_train.pictures.caption_reading import named

    bare = bare_pictures(folder)
    if bare:
        has = "picture has" if len(bare) == 1 else "pictures have"
        print(f"note: {len(bare)} {has} no caption file: {named(bare)}.", file=sys.stderr)


def _captions(count: int) -> str:
    return "1 caption" if count == 1 else f"{count} captions"

"""`lora-train dataset import` and `export`: datasets of other tools."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lora_train.data.scan import Manifest


def add_dataset(commands: Any) -> None:
    """The command "dataset"."""
    dataset = commands.add_parser("dataset", help="import and export datasets of other tools")
    inner = dataset.add_subparsers(required=True, metavar="WHAT")
    take = inner.add_parser(
        "import",
        help="a folder of pictures and captions from kohya's, imagefolder's or webdataset's files",
        description="Copy what SOURCE names into FOLDER, as N_concept folders with captions in .txt files. "
        "kohya's latents (.npz) are read by train --read-npz.",
    )
    take.add_argument(
        "source",
        type=Path,
        metavar="SOURCE",
        help="kohya's metadata (.json), dataset config (.toml, .json), metadata.jsonl, webdataset's .tar, or a folder",
    )
    take.add_argument("folder", type=Path, metavar="FOLDER", help="a new or empty one")
    take.add_argument(
        "--pictures", type=Path, metavar="FOLDER", help="where metadata's pictures are (default: beside the file)"
    )
    take.set_defaults(run=_import)
    give = inner.add_parser(
        "export",
        help="write such a file for a folder of pictures",
        description="Write another tool's file about the pictures below FOLDER. kohya's latents (.npz) are written "
        "by train --write-npz.",
    )
    give.add_argument("folder", type=Path, metavar="FOLDER")
    give.add_argument(
        "file",
        type=Path,
        metavar="FILE",
        help="its name selects the format: metadata.jsonl, or ending in .json (kohya's metadata), .toml, .tar",
    )
    give.set_defaults(run=_export)
    for parser in (take, give):
        parser.add_argument("--tag", default="", help="activation tag(s), put in front of every caption")


def _import(options: argparse.Namespace) -> int:
    from lora_train.data.exchange import import_dataset

    return _report(import_dataset(options.source, options.folder, options.pictures, options.tag), options.folder)


def _export(options: argparse.Namespace) -> int:
    from lora_train.data.exchange import export_dataset

    return _report(export_dataset(options.folder, options.file, options.tag), options.file)


def _report(manifest: Manifest, written: Path) -> int:
    for note in manifest.notes:
        print(f"note: {note}", file=sys.stderr)
    for one in manifest.rejected:
        print(f"left out: {one.path}: {one.reason}", file=sys.stderr)
    print(manifest.summary())
    print(written)
    return 0

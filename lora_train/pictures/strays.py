"""Files that may hold captions but are not read: reported where pictures have none, so that nobody trains without."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path

from lora_train.pictures.finding import LITTER
from lora_train.pictures.left_out import SHOWN, shown
from lora_train.pictures.neighbours import CAPTION_EXTENSIONS

METADATA = re.compile(
    r"(?:metadata|captions?|prompts?|annotations?|labels|dataset|meta_\w+)\.(?:jsonl?|csv|tsv|toml|parquet)|.*\.parquet",
    re.IGNORECASE,
)
"""Names of files that hold the captions of many pictures."""
_NO_CAPTION = re.compile(r"(?:read.?me|licen[cs]e|requirements|classes|copyright)\W.*", re.IGNORECASE)


def stray_notes(folder: Path, bare: bool, read: Path) -> list[str]:
    """Notes on such files below `folder` except `read`; none unless `bare`, which says that captions are missing."""
    if not bare:
        return []
    texts, tables = [], []
    for place, files in _folders(folder):
        others = [file for file in files if _ending(file) not in CAPTION_EXTENSIONS]
        names = {_form(name) for file in others for name in (file, os.path.splitext(file)[0])}
        for file in files:
            if METADATA.fullmatch(file) and place / file != read:
                tables.append(place / file)
            elif _ending(file) in CAPTION_EXTENSIONS and not _NO_CAPTION.fullmatch(file):
                texts += [] if _form(os.path.splitext(file)[0]) in names else [place / file]
    notes = []
    if texts:
        notes.append(
            f"Not read, although pictures have no caption, because no picture beside them has their name: "
            f"{_named(texts, folder)}."
        )
    if tables:
        notes.append(
            f"Not read, although pictures have no caption: {_named(tables, folder)}. If these hold the captions, "
            "give kohya's metadata or an imagefolder's metadata.jsonl as data.in_json, or a dataset config as "
            "data.dataset_config."
        )
    return notes


def _folders(folder: Path) -> Iterator[tuple[Path, list[str]]]:
    for place, inner, files in os.walk(folder):
        inner[:] = sorted(name for name in inner if not name.startswith(".") and name.casefold() not in LITTER)
        yield Path(place), sorted(file for file in files if not file.startswith("."))


def _named(files: list[Path], folder: Path) -> str:
    names = [shown(file.relative_to(folder).as_posix()) for file in files]
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


def _ending(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def _form(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()

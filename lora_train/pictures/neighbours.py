"""The files beside a picture: its captions, and files that look like captions but are not read.

`NAME.txt`, `NAME.caption`, then the same behind the picture's whole name (`NAME.jpg.txt`), each in any case: on
Windows, where most captions are written, case makes no difference.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path

from lora_train.links import MayRead, anywhere, leads_out
from lora_train.pictures.opening import EXTENSIONS

CAPTION_EXTENSIONS = (".txt", ".caption")
UNREAD_EXTENSIONS = (
    *(".txt.txt", ".caption.txt", ".txt.caption"),
    *(".json", ".tags", ".tag", ".cap", ".captions", ".text", ".md", ".csv", ".yaml", ".yml", ".xml", ".xmp"),
    *(".wd14", ".wd14cap", ".blip", ".blip2", ".booru", ".prompt", ".desc", ".rtf", ".doc", ".docx", ".odt"),
)
"""Endings under which taggers and people save text about a picture, and which are not read."""


def caption_files(
    picture: Path, extensions: Sequence[str] = CAPTION_EXTENSIONS, may_read: MayRead = anywhere
) -> list[Path]:
    """All caption files of `picture` except links that `may_read` refuses; the first is the one that counts."""
    names = [stem + extension for stem in (picture.stem, picture.name) for extension in extensions]
    # os.path.isfile: Path.is_file raises where the name is too long with that ending
    found = [name for name in names if os.path.isfile(picture.with_name(name))]
    there = _names(picture.parent)
    for name in names:
        for other in there.get(_form(name), ()):
            if os.path.isfile(picture.with_name(other)) and _is_its(other, picture):
                found += [] if any(_same(picture.parent, one, other) for one in found) else [other]
    return [file for name in found if not leads_out(file := picture.with_name(name), may_read)]


def caption_file(picture: Path, may_read: MayRead = anywhere) -> Path | None:
    """The caption file that counts for `picture`; None without one."""
    direct = next((file for e in CAPTION_EXTENSIONS if os.path.isfile(file := picture.with_suffix(e))), None)
    if direct and not leads_out(direct, may_read):
        return direct
    return next(iter(caption_files(picture, may_read=may_read)), None)


def unread_files(picture: Path) -> list[Path]:
    """Files beside `picture` that look like captions of it but are not read."""
    there = _names(picture.parent)
    names = (stem + extension for stem in (picture.stem, picture.name) for extension in UNREAD_EXTENSIONS)
    return [picture.with_name(other) for name in names for other in there.get(_form(name), ())]


def _is_its(name: str, picture: Path) -> bool:
    """Whether a file whose name fits except for case is this picture's: no other picture has exactly that name."""
    stem = os.path.splitext(name)[0]
    there = _names(picture.parent)
    pictures = [one for ending in ("", *EXTENSIONS) for one in there.get(_form(stem + ending), ())]
    others = (one for one in pictures if os.path.splitext(one)[1].lower() in EXTENSIONS)
    return stem in (picture.stem, picture.name) or not any(stem in (one, os.path.splitext(one)[0]) for one in others)


def _same(folder: Path, name: str, other: str) -> bool:
    """Whether two names are one file: they differ only in case, and the file system ignores it."""
    same_form = _form(name) == _form(other)
    return name == other or (same_form and os.path.samefile(folder / name, folder / other))


def _names(folder: Path) -> dict[str, list[str]]:
    """The names of the files in a folder by their form."""
    try:
        return _listed(str(folder), os.stat(folder).st_mtime_ns)
    except OSError:
        return {}


@lru_cache(maxsize=16)
def _listed(folder: str, _changed: int) -> dict[str, list[str]]:
    with os.scandir(folder) as entries:
        return _by_form(sorted(entry.name for entry in entries if entry.is_file()))


def _form(name: str) -> str:
    """A name without its case, and with letters and their accents composed: macOS and its archives keep them apart."""
    return unicodedata.normalize("NFC", name).casefold()


def _by_form(names: Iterable[str]) -> dict[str, list[str]]:
    out: dict[str, list[str]] = {}
    for name in names:
        out.setdefault(_form(name), []).append(name)
    return out

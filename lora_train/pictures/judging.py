"""Whether a file is a picture, by its name and, where that does not say so, by its first bytes."""

from __future__ import annotations

import os
from pathlib import Path

from lora_train.pictures import kinds
from lora_train.pictures.left_out import Reason

HIDDEN = Reason("hidden picture", "hidden pictures")
UNFINISHED = Reason("unfinished download or copy", "unfinished downloads or copies")
VIDEOS = Reason("video", "videos")
ARCHIVES = Reason("archive that is not unpacked", "archives that are not unpacked")
OTHERS = Reason("picture of a kind that is not supported", "pictures of kinds that are not supported")
MISNAMED = Reason("picture under the name of another kind of file", "pictures under the names of other kinds of file")


def why_no_picture(path: Path) -> Reason | str | None:
    """Why a file is left out; "" for a picture, None for what nobody would take for a picture."""
    suffix = path.suffix.lower()
    if path.name.startswith("."):
        return HIDDEN if suffix in kinds.EXTENSIONS and not path.name.startswith("._") else None
    if suffix in kinds.EXTENSIONS:
        return ""
    for reason, endings in ((VIDEOS, kinds.VIDEOS), (ARCHIVES, kinds.ARCHIVES), (OTHERS, kinds.OTHER_PICTURES)):
        if suffix in endings:
            return reason
    if suffix in kinds.NO_PICTURES:
        return MISNAMED if _is_picture(path) else None
    if suffix in kinds.UNFINISHED | kinds.BACKUPS or suffix.endswith("~"):
        inner = os.path.splitext(path.stem if suffix in kinds.UNFINISHED | kinds.BACKUPS else path.name[:-1])[1]
        return UNFINISHED if inner.lower() in kinds.EXTENSIONS or _is_picture(path) else None
    return "" if _is_picture(path) else None


def _is_picture(path: Path) -> bool:
    """Whether a file begins as pictures do, whatever its name says."""
    try:
        with path.open("rb") as file:
            return bool(kinds.kind_of(file.read(kinds.START)))
    except OSError:
        return False

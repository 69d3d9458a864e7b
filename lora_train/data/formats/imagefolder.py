"""Hugging Face's imagefolder: `metadata.jsonl` beside the pictures, one JSON object per line."""

from __future__ import annotations

import json
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PureWindowsPath
from typing import Any

from lora_train.atomic import write_text
from lora_train.data.formats.kohya_metadata import first_text
from lora_train.data.matching import match_ends
from lora_train.errors import LoraTrainError
from lora_train.pictures.finding import find
from lora_train.pictures.kinds import EXTENSIONS
from lora_train.pictures.left_out import Rejected
from lora_train.pictures.texts import decode_whole, lines_of

CAPTION_COLUMNS = ("text", "caption", "prompt")


@dataclass
class ImageFolder:
    """Captions by picture, in the file's order, with their lines, and what cannot be used."""

    captions: dict[Path, str] = field(default_factory=dict)
    rejected: list[Rejected] = field(default_factory=list)


def read_imagefolder(file: Path) -> ImageFolder:
    """Read a `metadata.jsonl`: `file_name` relative to it, the caption in `text`, `caption` or `prompt`.

    A path of another computer means the picture below the file's folder with the longest common end of its path.
    Pictures outside that folder, or missing, are rejected with a reason. Raises LoraTrainError, naming the line, for a
    file that is not such metadata.
    """
    found, lost = ImageFolder(), dict[str, str]()
    root = file.parent.resolve()
    for number, row in _rows(file):
        where = f"{file}: line {number}"
        name, caption = row.get("file_name"), _caption(row, where)
        if not isinstance(name, str) or not name:
            raise LoraTrainError("file_name is missing.", where, "Each line names its picture in file_name.")
        picture = file.parent / name
        if _why_not(name, picture, root):
            lost[name] = caption
        else:
            found.captions[picture] = caption
    elsewhere = _elsewhere(lost, found.captions, file.parent)
    for name, caption in lost.items():
        if name in elsewhere:
            found.captions[elsewhere[name]] = caption
        else:
            found.rejected.append(Rejected(file.parent / name, _why_not(name, file.parent / name, root)))
    return found


def _elsewhere(names: Iterable[str], taken: Container[Path], folder: Path) -> dict[str, Path]:
    """The pictures below `folder` that names mean which were written when it was somewhere else."""
    root = folder.resolve()
    wanted = [name for name in names if name and ".." not in PureWindowsPath(name).parts]
    if not wanted:
        return {}
    rest = [path for path in find(folder).pictures if path not in taken and path.resolve().is_relative_to(root)]
    return match_ends(wanted, rest, folder)


def write_imagefolder(file: Path, captions: Mapping[Path, str]) -> None:
    """Write a `metadata.jsonl` with the captions as `text`, atomically.

    Raises LoraTrainError for a picture that is not below the file's folder: `file_name` cannot lead out of it.
    """
    rows, root = [], file.absolute().parent
    for picture, caption in captions.items():
        try:
            name = picture.absolute().relative_to(root).as_posix()
        except ValueError as error:
            raise LoraTrainError(
                f"{picture.name} is not below this file's folder.", str(file), "Write it into the pictures' folder."
            ) from error
        rows.append(json.dumps({"file_name": name, "text": caption}, ensure_ascii=False) + "\n")
    write_text(file, "".join(rows))


def _rows(file: Path) -> list[tuple[int, dict[str, Any]]]:
    rows = []
    number = 1
    try:
        for number, line in enumerate(decode_whole(file.read_bytes()).split("\n"), 1):
            if line.strip():
                row = json.loads(line)
                if not isinstance(row, dict):
                    raise ValueError("this is not a JSON object")
                rows.append((number, row))
    except OSError as error:
        raise LoraTrainError(f"cannot read the metadata: {error.strerror}.", str(file)) from error
    except (ValueError, RecursionError) as error:
        raise LoraTrainError(
            f"this is not a metadata.jsonl ({error}).", f"{file}: line {number}", "Write one JSON object per line."
        ) from error
    return rows


def _caption(row: dict[str, Any], where: str) -> str:
    value = first_text(next((row[column] for column in CAPTION_COLUMNS if row.get(column) is not None), None))
    if not isinstance(value, str):
        columns = ", ".join(CAPTION_COLUMNS)
        raise LoraTrainError(f"there is no caption ({columns}).", where, "Write it as text in one of these.")
    return "\n".join(lines_of(value))


def _why_not(name: str, picture: Path, root: Path) -> str:
    windows = PureWindowsPath(name)
    if windows.drive or windows.root or ".." in windows.parts:
        return "it is outside the dataset's folder"
    try:
        if not picture.resolve().is_relative_to(root):
            return "it is outside the dataset's folder"
        there = picture.is_file()
    except (OSError, ValueError):  # a name too long, or with a NUL in it
        there = False
    if not there:
        return "there is no such file"
    return "" if picture.suffix.lower() in EXTENSIONS else f"pictures of this kind are not supported ({picture.suffix})"

"""Bulk edits on disk, each of which can be undone, also after a restart.

An edit is written to the journal before the first caption file changes: every file's text before, and
the hash of its text after. With these a file's own bytes say whether it holds the edit, so undo
needs no other state than the entry, and can be interrupted anywhere and started again.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any
from uuid import uuid4

from lora_train.atomic import sync_all, write_bytes, write_json
from lora_train.captions.edit import Edit, all_edited, count_parts
from lora_train.captions.store import keep_backup
from lora_train.errors import LoraTrainError
from lora_train.pictures.captions import caption_lines
from lora_train.pictures.finding import find
from lora_train.pictures.left_out import Rejected
from lora_train.pictures.neighbours import CAPTION_EXTENSIONS, caption_file
from lora_train.pictures.texts import decode, file_text, lines_of

VERSION = 1


@dataclass(frozen=True)
class Change:
    """One caption file before and after an edit."""

    file: Path
    before: str
    after: str


@dataclass
class Report:
    """What an edit or an undo did: files changed, files left alone with the reason, copies made."""

    name: str
    changed: list[Path] = field(default_factory=list)
    skipped: list[Rejected] = field(default_factory=list)
    backups: list[Path] = field(default_factory=list)


@dataclass(frozen=True)
class Entry:
    """An edit in the journal; `files` are relative to `folder`, with text before and SHA-256 after."""

    folder: str
    name: str
    time: float
    files: tuple[FileRecord, ...]
    version: int = VERSION


@dataclass(frozen=True)
class FileRecord:
    """One file of an entry; `before` is None where there was no file."""

    path: str
    before: str | None
    after_sha256: str


def count_tags(folder: Path) -> tuple[Counter[str], list[Rejected]]:
    """How many captions below `folder` each tag occurs in, by its lower-case form without underscores, and the files
    that cannot be counted."""
    skipped: list[Rejected] = []
    return count_parts(text.removeprefix("\ufeff") for _, text in _texts(folder, skipped)), skipped


def preview_edits(folder: Path, edits: Iterable[Edit]) -> tuple[list[Change], list[Rejected]]:
    """What `edits` would change in the caption files of the pictures below `folder`, and what cannot be edited.

    Links and files that are not UTF-8 are left alone. Raises LoraTrainError when there is no such folder.
    """
    skipped: list[Rejected] = []
    texts = list(_texts(folder, skipped))
    plain = [text.removeprefix("\ufeff") for _, text in texts]
    made = all_edited(plain, edits, count_parts(plain))
    changes = [Change(file, before, after) for (file, before), now, after in zip(texts, plain, made) if after != now]
    return changes, skipped


def bare_pictures(folder: Path) -> list[Path]:
    """The pictures below `folder` that have no caption file: bulk edits do not create any."""
    return [picture for picture in find(folder, may_read=lambda path: False).pictures if caption_file(picture) is None]


def edit_captions(folder: Path, edits: Iterable[Edit], journal: Path) -> Report:
    """Apply `edits` in one go, as one entry of `journal`; nothing is written when nothing changes.

    When a file cannot be written, those written before it are put back. Raises LoraTrainError.
    """
    wanted = list(edits)
    changes, skipped = preview_edits(folder, wanted)
    report = Report("; ".join(edit.name for edit in wanted), [change.file for change in changes], skipped)
    if not changes:
        return report
    records = [(change.file, change.before, change.after) for change in changes]
    entry = _enter(folder, report.name, records, journal)
    try:
        for change in changes:
            _write_if_unchanged(change)
        sync_all()
    except BaseException:
        _roll_back(changes)  # when this fails too, the entry stays, and undo can finish
        entry.unlink()
        raise
    return report


def write_caption(folder: Path, picture: Path, text: str, journal: Path) -> Report:
    """Write what a person typed as the caption of one picture below `folder`, as one entry of `journal`.

    In a file of several lines only the one that counts is replaced, unless nothing was typed. The file that counts
    keeps its name; without one, `.txt` is written. Raises LoraTrainError when the file is a link or not text, or cannot
    be written.
    """
    file = caption_file(picture) or picture.with_suffix(CAPTION_EXTENSIONS[0])
    name = f"caption of {picture.relative_to(folder).as_posix()}"
    if file.is_symlink():
        raise LoraTrainError("the caption file is a link to another file.", str(file), "Edit that file instead.")
    data, typed = _bytes(file), " ".join(text.encode("utf-8", "replace").decode().split())
    try:
        before = None if data is None else _utf8(data)
    except ValueError as error:
        raise LoraTrainError("the caption file is not UTF-8 text.", str(file), "Save it as UTF-8.") from error
    after = file_text(_with_line(before or "", typed))
    if before == after:
        return Report(name)
    entry = _enter(folder, name, [(file, before, after)], journal)
    try:
        write_bytes(file, after.encode())
    except BaseException:
        entry.unlink()
        raise
    return Report(name, [file])


def _with_line(text: str, typed: str) -> str:
    """A caption file's text with the line that counts replaced by what a person typed; the alternatives stay."""
    lines = lines_of(text.removeprefix("\ufeff"))
    if not typed or len(lines) < 2:
        return typed
    at = lines.index(caption_lines(text)[0])
    return "\n".join([*lines[:at], typed, *lines[at + 1 :]])


def undo(folder: Path, journal: Path) -> Report:
    """Put back what the newest edit of `folder` in `journal` changed, and take the edit out of the journal.

    A file that was changed since is first copied to `.bak`; one that was deleted is restored. Raises
    LoraTrainError when there is nothing to undo, and when a file cannot be written; undo continues from there.
    """
    newest = next(_entries(folder, journal), None)
    if newest is None:
        raise LoraTrainError("there is no edit to undo.", str(folder), "Edit captions first.")
    path, entry = newest
    report = Report(entry.name)
    for file, record in [(_inside(folder, record.path, path), record) for record in entry.files]:
        if file.is_symlink():
            report.skipped.append(Rejected(file, "it is a link now"))
        else:
            _restore(file, record, report)
    sync_all()
    path.unlink(missing_ok=True)
    return report


def history(folder: Path, journal: Path) -> list[Entry]:
    """The edits of `folder` that can be undone, oldest first."""
    return [entry for _, entry in _entries(folder, journal)][::-1]


def newest_edit(folder: Path, journal: Path) -> Entry | None:
    """The edit that `undo` would revert; None when there is none."""
    return next((entry for _, entry in _entries(folder, journal)), None)


def _texts(folder: Path, skipped: list[Rejected]) -> Iterator[tuple[Path, str]]:
    """Caption files that count for a picture below `folder`, with their exact text, sorted."""
    if not folder.is_dir():
        raise LoraTrainError("there is no such folder.", str(folder), "Give the folder that holds your pictures.")
    for file in sorted(_caption_files(folder, skipped)):
        if file.is_symlink():
            skipped.append(Rejected(file, "it is a link, and its target may belong elsewhere"))
            continue
        try:
            str(file).encode()
            yield file, _utf8(file.read_bytes())
        except UnicodeEncodeError:
            skipped.append(Rejected(file, "its name is not UTF-8 text"))
        except ValueError:
            skipped.append(Rejected(file, "it is not UTF-8 text"))
        except OSError as error:
            skipped.append(Rejected(file, f"it cannot be read ({error.strerror})"))


def _utf8(data: bytes) -> str:
    """The exact text. Raises ValueError unless it is UTF-8, and text: NULs between letters are UTF-16."""
    decode(data)
    if b"\0" in data:
        raise ValueError("NULs")
    return data.decode("utf-8")


def _caption_files(folder: Path, skipped: list[Rejected]) -> set[Path]:
    """The caption files of the pictures that a training of `folder` takes; links to folders are not followed."""
    found = find(folder, may_read=lambda path: False)
    skipped += found.rejected
    return {file for picture in found.pictures if (file := caption_file(picture))}


def _enter(folder: Path, name: str, records: Iterable[tuple[Path, str | None, str]], journal: Path) -> Path:
    """Write a journal entry of files with their texts before and after. Returns the entry's file."""
    files = tuple(
        FileRecord(file.relative_to(folder).as_posix(), before, _hash(after.encode()))
        for file, before, after in records
    )
    path = journal / f"{_next_number(journal):08d}-{uuid4().hex[:8]}.json"
    write_json(path, asdict(Entry(str(folder.resolve()), name, time.time(), files)))
    return path


def _write_if_unchanged(change: Change) -> None:
    """Write the new text, unless the file is no longer what the edit was made from."""
    if _bytes(change.file) != change.before.encode():
        raise LoraTrainError("the file changed while it was edited.", str(change.file), "Edit again.")
    write_bytes(change.file, change.after.encode(), sync=False)


def _roll_back(changes: Iterable[Change]) -> None:
    """Restore the files that hold the edit's text; others were not written, or have been changed since."""
    for change in changes:
        if _bytes(change.file) == change.after.encode():
            write_bytes(change.file, change.before.encode())


def _restore(file: Path, record: FileRecord, report: Report) -> None:
    data, before = _bytes(file), None if record.before is None else record.before.encode()
    if data == before:
        return
    if data is not None and _hash(data) != record.after_sha256:
        report.backups.append(keep_backup(file))
    if before is None:
        file.unlink()
    else:
        write_bytes(file, before, sync=False)
    report.changed.append(file)


def _entries(folder: Path, journal: Path) -> Iterator[tuple[Path, Entry]]:
    """The newest first, read lazily."""
    root = str(folder.resolve())
    entries = ((path, _read_entry(path)) for path in sorted(journal.glob("*.json"), reverse=True))
    return ((path, entry) for path, entry in entries if entry.folder == root)


def _read_entry(path: Path) -> Entry:
    try:
        data: dict[str, Any] = json.loads(path.read_bytes())
        if data["version"] != VERSION:
            raise ValueError(f"its version is {data['version']}")
        files = tuple(_record(raw) for raw in data["files"])
        return Entry(_text(data["folder"]), _text(data["name"]), float(data["time"]), files)
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise LoraTrainError(
            f"the journal of edits is damaged ({error}).", str(path), "Move this file away to undo other edits."
        ) from error


def _record(raw: dict[str, Any]) -> FileRecord:
    before = raw["before"]
    return FileRecord(_text(raw["path"]), None if before is None else _text(before), _text(raw["after_sha256"]))


def _inside(folder: Path, relative: str, entry: Path) -> Path:
    """The caption file that an entry names. Raises LoraTrainError when it is not one, or not below `folder`."""
    path = PurePosixPath(relative)
    file = folder / path
    plain = not path.is_absolute() and ".." not in path.parts and path.suffix.lower() in CAPTION_EXTENSIONS
    if not plain or not file.parent.resolve().is_relative_to(folder.resolve()):
        raise LoraTrainError(f"the journal names a file that is not ours to write ({relative}).", str(entry))
    return file


def _next_number(journal: Path) -> int:
    numbers = (path.name.split("-")[0] for path in journal.glob("*.json"))
    return max((int(number) for number in numbers if number.isdecimal()), default=0) + 1


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is not text")
    return value


def _bytes(file: Path) -> bytes | None:
    try:
        return file.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise LoraTrainError(f"cannot read the file: {error.strerror}.", str(file)) from error


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()

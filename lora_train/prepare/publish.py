"""The output folders: exactly the kept pictures, their masks, and captions; nothing left of earlier runs.

`pictures/` and `masks/` hold links to the store's files (copies where there are no links), so publishing again takes
no time. Captions are copies: one that a person edited in the output stays as it is, unless new captions are asked
for; then the edited one is kept as `.bak`.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from uuid import uuid4

from lora_train.atomic import write_bytes, write_json
from lora_train.captions.store import keep_backup
from lora_train.links import MayRead, anywhere
from lora_train.pictures.captions import caption_bytes
from lora_train.pictures.neighbours import CAPTION_EXTENSIONS, caption_files
from lora_train.pictures.texts import NotText, decode, file_text

PUBLISHED = "published.json"
LONGEST = 200
"""Most bytes of a picture's name that are kept; file systems allow 255 with all endings."""


class Outputs:
    """The wanted files below the work folder; keys are paths relative to it, with forward slashes."""

    def __init__(self, work: Path, recaption: bool = False, may_read: MayRead = anywhere) -> None:
        self._work, self._recaption, self._may_read = work, recaption, may_read
        self._links: dict[str, Path] = {}
        self._captions: dict[str, bytes] = {}

    def add(self, output: str, made: Path) -> None:
        """Put a file of the store at `output`."""
        self._links[output] = made

    def add_captions(self, output: str, source: Path, ending: str = "") -> bool:
        """Copy the caption files beside an input to its output. Returns whether there are any.

        `ending` (".bak") is appended to the copies' names; without it, files that are not text are left out.
        """
        copies: dict[str, bytes] = {}
        for file in caption_files(source, may_read=self._may_read):
            copy = Path(output).with_suffix(file.suffix.lower()).as_posix() + ending
            data = caption_bytes(file) if ending else _utf8(caption_bytes(file))
            if data is not None:
                copies.setdefault(copy, data)
        self._captions |= copies
        return bool(copies)

    def add_caption(self, output: str, text: str) -> None:
        """Put this caption beside an output."""
        # the line end matters: kohya's loader refuses a caption file without any line
        line = f"{text}\n".encode("utf-8", "replace")
        self._captions[Path(output).with_suffix(CAPTION_EXTENSIONS[0]).as_posix()] = line

    def publish(self) -> None:
        """Write the folders. A crash leaves only whole files, and the next call completes the rest."""
        before = self._published()
        after = {path: made.relative_to(self._work).as_posix() for path, made in self._links.items()}
        after |= {path: _digest(text) for path, text in self._captions.items()}
        if before != after:
            # an existing caption keeps its old digest until it is replaced: else it would look like a person's
            write_json(self._work / PUBLISHED, {**after, **before})
        for path in before.keys() - after.keys():
            self._remove(path, before[path])
        for path, made in self._links.items():
            target = self._work / path
            if before.get(path) != after[path] or not target.is_file():
                _link(made, target)
        for path, text in self._captions.items():
            self._caption(self._work / path, text, before.get(path))
        if before != after:
            write_json(self._work / PUBLISHED, after)

    def _caption(self, target: Path, text: bytes, before: str | None) -> None:
        """Write a caption. A person's own one stays, or is set aside where new ones are asked for."""
        there = target.read_bytes() if target.is_file() else None
        if there == text:
            return
        if there is not None and _digest(there) != before:
            if not self._recaption or _digest(text) == before:
                return
            keep_backup(target)
        write_bytes(target, text)

    def _remove(self, path: str, before: str) -> None:
        """Remove a file that is no longer wanted; a caption only if it is unchanged since it was written."""
        target = self._work / path
        if _is_text(target) and target.is_file() and _digest(target.read_bytes()) != before:
            return
        target.unlink(missing_ok=True)
        for folder in target.parents:
            if folder == self._work or not folder.is_dir() or any(folder.iterdir()):
                break
            folder.rmdir()

    def _published(self) -> dict[str, str]:
        try:
            return dict(json.loads((self._work / PUBLISHED).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return {}


def output_names(files: list[Path], operations: list[str]) -> dict[tuple[Path, str], str]:
    """A stem for every view of every file, with its folder; all different, even ignoring case.

    The original keeps its name, others add their operation's: `sub/a`, `sub/a-face`.
    """
    names: dict[tuple[Path, str], str] = {}
    taken: set[str] = set()
    for file in files:
        for operation in operations:
            stem = (file.parent / _shortened(file.stem)).as_posix() + (
                "" if operation == "original" else f"-{operation}"
            )
            name, number = stem, 2
            while name.casefold() in taken:
                name, number = f"{stem}-{number}", number + 1
            taken.add(name.casefold())
            names[file, operation] = name
    return names


def _shortened(stem: str) -> str:
    """The stem, cut so that the operation's name and the ending of a caption or its copy fit behind it."""
    return stem.encode()[:LONGEST].decode(errors="ignore")


def _is_text(path: Path) -> bool:
    """Whether this is a caption or a copy of one, which a person may have edited."""
    return path.suffix in (*CAPTION_EXTENSIONS, ".bak")


def _utf8(data: bytes) -> bytes | None:
    """A caption file's bytes; one that is not UTF-8 is converted to UTF-8 lines, for kohya's loader and bulk edits.

    None where it is not text.
    """
    try:
        text, encoding = decode(data)
    except NotText:
        return None
    plain = encoding == "utf-8" and b"\0" not in data
    return data if plain else file_text(text).encode()


def _digest(text: bytes) -> str:
    return hashlib.sha256(text).hexdigest()


def _link(made: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.parent / f".{uuid4().hex}.part"
    try:
        os.link(made, part)
        os.replace(part, target)
    except OSError:  # another disk, or a file system without links
        write_bytes(target, made.read_bytes())
    finally:
        part.unlink(missing_ok=True)  # replacing a link with another to the same file leaves both

"""The content hash of each input when it was last read, so that unchanged files are not read again."""

from __future__ import annotations

import json
from pathlib import Path

from lora_train.atomic import write_json

INDEX = "index.json"


class Index:
    """Hashes by path relative to the input folder; a file counts as unchanged by size and time, as in git."""

    def __init__(self, work: Path) -> None:
        self._path = work / INDEX
        self._new: dict[str, list[int | str]] = {}
        try:
            self._old = dict(json.loads(self._path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            self._old = {}

    def content(self, file: Path, relative: Path) -> str:
        """The hash of an unchanged file, or ""."""
        known = self._old.get(relative.as_posix())
        if isinstance(known, list) and len(known) == 3 and known[:2] == _stat(file):
            return str(known[2])
        return ""

    def put(self, file: Path, relative: Path, content: str) -> None:
        """Remember a file's hash."""
        stat = _stat(file)
        if content and stat:
            self._new[relative.as_posix()] = [*stat, content]

    def write(self) -> None:
        """Write what was put; earlier hashes stay."""
        if not self._new.items() <= self._old.items():
            self._old |= self._new
            write_json(self._path, self._old)


def _stat(file: Path) -> list[int]:
    try:
        stat = file.stat()
    except OSError:
        return []
    return [stat.st_size, stat.st_mtime_ns]

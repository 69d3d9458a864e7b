"""Files that are either whole or absent: temporary file, fsync, rename."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from lora_train.errors import LoraTrainError
from lora_train.jsons import to_json


@contextmanager
def writing(path: Path, sync: bool = True) -> Iterator[IO[bytes]]:
    """A file to write `path` through: it takes the place of `path` only when the block ends without an error.

    Without `sync` that holds for a crash of the program, not of the machine; a caller that writes many files calls
    `sync_all` after the last.
    Raises LoraTrainError when the folder cannot be written or the disk is full; the old file stays.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name[:40]}.", suffix=".part", dir=path.parent)
    except OSError as error:
        raise _cannot_write(path, error) from error
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            if sync:
                file.flush()
                os.fsync(file.fileno())
        os.chmod(name, 0o666 & ~_umask())
        os.replace(name, path)
    except BaseException as error:
        Path(name).unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise _cannot_write(path, error) from error
        raise


def write_bytes(path: Path, data: bytes, sync: bool = True) -> None:
    """Write `data` to `path` so that a crash leaves the old file or the new one, never half.

    Raises LoraTrainError as `writing` does.
    """
    with writing(path, sync) as file:
        file.write(data)


def sync_all() -> None:
    """Wait until everything written is on the disk, where the system offers that."""
    if hasattr(os, "sync"):
        os.sync()


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON atomically; see `to_json`."""
    write_text(path, to_json(value, indent=2) + "\n")


def keep_aside(path: Path) -> Path:
    """Copy a file that will be overwritten to the first free name of `NAME.bak`, `NAME.bak2` ..., and return that path.

    Raises LoraTrainError when it cannot be read or written.
    """
    number = 1
    while True:
        kept = path.with_name(f"{path.name}.bak{number if number > 1 else ''}")
        try:
            data = path.read_bytes()
            kept.open("xb").close()  # reserves the name: no other program can take it in between
        except FileExistsError:
            number += 1
            continue
        except OSError as error:
            raise _cannot_write(kept, error) from error
        write_bytes(kept, data)
        return kept


def free_path(path: Path) -> Path:
    """The first of `NAME.png`, `NAME-2.png`, `NAME-3.png` ... that does not exist, created as an empty file.

    No other program can take it in between. Raises LoraTrainError when none can be created.
    """
    free, number = path, 2
    while True:
        try:
            free.parent.mkdir(parents=True, exist_ok=True)
            free.open("xb").close()
            return free
        except FileExistsError:
            if not os.path.lexists(free):  # the folder is a file
                raise _cannot_write(free, NotADirectoryError(0, "its folder is a file")) from None
            free, number = path.with_name(f"{path.stem}-{number}{path.suffix}"), number + 1
        except OSError as error:
            raise _cannot_write(free, error) from error


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _cannot_write(path: Path, error: OSError) -> LoraTrainError:
    reason = error.strerror or str(error)
    return LoraTrainError(
        f"cannot write the file: {reason}.",
        str(path),
        "Choose another folder, or free space and allow writing there.",
    )

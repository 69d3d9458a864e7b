"""One process at a time executes a run: an operating-system lock on a file in the run's folder.

The system releases the lock when the process ends, however it ends, so a run is in progress exactly when its
lock is held.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import IO, Any

from lora_train.errors import LoraTrainError

NAME = "running.lock"


class RunLock:
    """Held from `acquire` to `release`, or within a `with`."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / NAME
        self._file: IO[Any] | None = None

    def acquire(self) -> None:
        """Raises LoraTrainError when another process, or another thread of this one, holds it."""
        file = self._path.open("a")
        if not _try_lock(file):
            file.close()
            raise LoraTrainError(
                "this run is already in progress, in this program or another.", str(self._path.parent), "Wait for it."
            )
        self._file = file

    def __enter__(self) -> RunLock:
        self.acquire()
        return self

    def __exit__(self, *_error: object) -> None:
        self.release()

    def release(self) -> None:
        """Does nothing when it is not held."""
        if self._file is not None:
            self._file.close()
            self._file = None


def is_held(folder: Path) -> bool:
    """Whether some process executes the run in `folder`."""
    path = folder / NAME
    if not path.exists():
        return False
    try:
        with path.open("a") as file:
            return not _try_lock(file)
    except OSError:
        return False


def _try_lock(file: IO[Any]) -> bool:
    """Lock without waiting; closing the file unlocks."""
    try:
        if os.name == "nt":
            import msvcrt

            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined, unused-ignore]
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True

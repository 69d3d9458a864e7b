"""Whether links in the folders that a person names may be followed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

MayRead = Callable[[Path], bool]
"""Whether a path may be read; on one's own machine every one may."""

OUT = "a link out of the folders that may be used"


def anywhere(path: Path) -> bool:
    """A MayRead for people who have the rights of this program anyway."""
    return True


def leads_out(path: Path, may_read: MayRead) -> bool:
    """Whether `path` is a link to a place that `may_read` refuses; a broken link counts as one."""
    try:
        return path.is_symlink() and not may_read(path.resolve())
    except (OSError, RuntimeError):  # a link to itself
        return True

"""Paths that a person named: whether they may be used, and the system's errors about them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from lora_train.data.scan import as_text
from lora_train.errors import LoraTrainError, Problem

if TYPE_CHECKING:
    from lora_train.hosts.base import Host


@contextmanager
def noting(found: list[Problem], where: str) -> Iterator[None]:
    """Errors within the block are added to `found`: nothing that the system refuses ends in a traceback."""
    try:
        yield
    except LoraTrainError as error:
        found += error.problems
    except OSError as error:
        what = as_text(f"cannot read {str(error.filename)[:200]}: {error.strerror}.")
        found.append(Problem(what, where, "Allow reading it, or give another."))
    except (RuntimeError, ValueError) as error:  # no home folder for "~", a zero byte in a path
        found.append(Problem(f"this is not a valid path: {error}.", where, "Give another."))


def allowed(named: str, host: Host, where: str) -> Path:
    """The path that a person named in the field `where`. Raises LoraTrainError when the page may not read it."""
    path = Path(named).expanduser()
    if not host.may_read(path):
        raise LoraTrainError(
            f"{named} is outside the folders that may be used from this page.",
            where,
            "Choose one below the WebUI's folder, or add its folder to the settings (Train LoRA).",
        )
    return path

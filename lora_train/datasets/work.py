"""The work folder for a folder of pictures, and the models that prepare it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from lora_train.config import PrepareOptions
from lora_train.datasets.captioning import asked, captioning_problems
from lora_train.errors import LoraTrainError
from lora_train.lock import NAME, RunLock

if TYPE_CHECKING:
    from lora_train.hosts.base import Host
    from lora_train.prepare import Services


def work_folder(folder: Path, host: Host) -> Path:
    """Where the prepared pictures of an input folder are kept: the same folder always gets the same work folder."""
    source = folder.expanduser().resolve()
    digest = hashlib.sha256(str(source).encode()).hexdigest()[:12]
    return host.data_dir() / "prepared" / f"{source.name or 'pictures'}-{digest}"


@contextmanager
def alone_in(work: Path) -> Iterator[None]:
    """Lock a work folder: two preparations of the same pictures would remove each other's files.

    Raises LoraTrainError when another one is running there, in this program or another, or it cannot be written.
    """
    lock = RunLock(work)
    try:
        work.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except OSError as error:
        raise LoraTrainError(
            f"cannot write in this folder: {error.strerror}.", str(work), "Make room, or allow writing there."
        ) from error
    except LoraTrainError as error:
        raise LoraTrainError(
            "these pictures are being prepared already.", str(work), "Wait for it, or stop it first."
        ) from error
    try:
        yield
    finally:
        lock.release()
        if [path.name for path in work.iterdir()] == [NAME]:  # nothing was made
            (work / NAME).unlink()
            work.rmdir()


def services_of(host: Host, options: PrepareOptions) -> Services:
    """The host's models and the chosen captioners, as the preparation calls them; None for what is missing.

    Raises LoraTrainError for what `captioning_problems` reports.
    """
    from lora_train.prepare import Services

    if found := captioning_problems(options, host):
        raise LoraTrainError.of(found)
    return Services(
        upscale=(lambda p: host.upscale(p, 2, options.upscaler)) if host.improves else None,
        restore=(lambda p: host.restore_faces(p, options.restore_weight)) if host.improves else None,
        caption=asked(options.captioner, options, "captioner", host),
        tags=asked(options.tagger, options, "tagger", host),
        weights=tuple(str(folder) for folder in host.face_weights()),
        may_read=host.may_read,
    )

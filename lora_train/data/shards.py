"""webdataset's shards as a folder of pictures: unpacked once, with the captions beside the pictures."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from lora_train.atomic import write_bytes, write_json, write_text
from lora_train.data.formats.webdataset import Sample, read_shards
from lora_train.links import MayRead, anywhere
from lora_train.pictures.finding import find
from lora_train.pictures.left_out import Rejected
from lora_train.pictures.texts import file_text

DONE = "unpacked.json"
SHARDS = "shards"
"""The folder in a host's data below which they are unpacked."""


def shard_files(folder: Path) -> list[Path]:
    """The shards in a folder, in order; none where there are also pictures."""
    if not folder.is_dir() or find(folder).pictures:
        return []
    return sorted(path for path in folder.glob("*.tar") if path.is_file())


def without_shards(folder: str, root: Path, may_read: MayRead = anywhere) -> str:
    """The folder itself; or, for a folder of webdataset's shards, the folder below `root` where they are unpacked,
    once.

    A folder that may not be read is returned as it is: the checks refuse it. Raises LoraTrainError as `unpack` does.
    """
    source = Path(os.path.expanduser(folder))  # unlike Path.expanduser, leaves "~nobody" for the checks to report
    try:
        there = bool(folder) and may_read(source) and bool(shard_files(source))
    except (OSError, ValueError):  # too long, or a zero byte
        return folder
    return str(unpack(source, root)) if there else folder


def unpack(folder: Path, root: Path) -> Path:
    """The pictures of a folder's shards, in a folder of their own below `root`; unpacked again only when they change.

    Every shard gets its own folder, so equal keys in two of them do not collide. Raises LoraTrainError for a damaged
    shard, or when the disk is full; what was unpacked until then is kept for the next time.
    """
    shards = shard_files(folder)
    state = [[shard.name, shard.stat().st_size, shard.stat().st_mtime_ns] for shard in shards]
    digest = hashlib.sha256(json.dumps([str(folder.resolve()), state]).encode()).hexdigest()[:12]
    target = root / f"{folder.resolve().name or 'shards'}-{digest}"
    if (target / DONE).is_file():
        return target
    passed_over = [[str(one.path), one.reason] for one in unpack_shards(shards, target)]
    write_json(target / DONE, {"shards": state, "passed_over": passed_over})
    return target


def unpack_shards(shards: Iterable[Path], target: Path) -> list[Rejected]:
    """Write the pictures of shards with their captions below `target`. Returns what was skipped.

    Raises LoraTrainError for a damaged shard, or when the disk is full.
    """
    passed_over = []
    for sample in read_shards(shards):
        if isinstance(sample, Sample):
            _write(sample, target)
        else:
            passed_over.append(sample)
    return passed_over


def _write(sample: Sample, target: Path) -> None:
    """The key comes from a stranger: it becomes one plain name."""
    name = re.sub(r"[^\w.-]+", "_", sample.key)[-80:].strip(".") or "picture"
    name += "-" + hashlib.sha256(sample.key.encode("utf-8", "replace")).hexdigest()[:8]
    # the extension may have several parts (".seg.png"); the last is the kind
    file = target / sample.shard.stem / f"{name}{PurePosixPath(f'x{sample.extension}').suffix}"
    if not file.exists():
        write_bytes(file, sample.data)
    if sample.caption is not None:
        write_text(file.with_suffix(".txt"), file_text(sample.caption))

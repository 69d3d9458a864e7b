"""webdataset's tar shards: members with the same stem make a sample, picture and caption. Read in order, never
unpacked.

Shards come from strangers. Members that are not regular files, whose names lead outside, or that are huge
are skipped with a reason; nothing is written to disk.
"""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

from lora_train.data.formats.imagefolder import CAPTION_COLUMNS
from lora_train.errors import LoraTrainError
from lora_train.pictures.kinds import EXTENSIONS
from lora_train.pictures.left_out import Rejected
from lora_train.pictures.neighbours import CAPTION_EXTENSIONS
from lora_train.pictures.texts import NotText, decode, lines_of

MAX_PICTURE = 256 << 20
MAX_TEXT = 1 << 20
"""In bytes; larger members are skipped."""


@dataclass(frozen=True)
class Sample:
    """One picture of a shard: `key` is its path without extensions, `data` the picture file's bytes."""

    shard: Path
    key: str
    extension: str
    data: bytes
    caption: str | None


def read_shards(shards: Iterable[Path]) -> Iterator[Sample | Rejected]:
    """Samples of uncompressed tar files, and what is skipped (`path` is shard/member), in order.

    As in webdataset, a sample's members follow each other, and the key ends at the first dot of the
    file's name. The caption is that of .txt or .caption, else text, caption or prompt of .json. Raises
    LoraTrainError at a damaged shard; the sample right before the damage may be lost with it.
    """
    for shard in shards:
        yield from _read_shard(shard)


def write_shard(file: Path, samples: Iterable[tuple[Path, str]]) -> None:
    """Write pictures and captions as an uncompressed tar: members `00000000.png`, `00000000.txt`, and so on.

    The file appears once it is complete. Raises LoraTrainError when it cannot be written or a picture cannot be read.
    """
    part = file.with_name(f".{file.name}.part")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with tarfile.open(part, "w", format=tarfile.PAX_FORMAT) as tar:
            for number, (picture, caption) in enumerate(samples):
                _add(tar, f"{number:08}{picture.suffix.lower()}", picture.read_bytes())
                _add(tar, f"{number:08}.txt", caption.encode("utf-8", "replace"))
        os.replace(part, file)
    except OSError as error:
        raise LoraTrainError(f"cannot write the shard: {error.strerror or error}.", str(file), "Free space.") from error
    finally:
        part.unlink(missing_ok=True)


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


def _read_shard(shard: Path) -> Iterator[Sample | Rejected]:
    key, files = "", dict[str, bytes]()
    for name, data in _members(shard):
        if isinstance(data, str):
            yield Rejected(shard / name, data)
            continue
        stem, _, extension = PurePosixPath(name).name.partition(".")
        member_key = str(PurePosixPath(name).with_name(stem or "."))
        if member_key != key:
            yield from _sample(shard, key, files)
            key, files = member_key, {}
        files[f".{extension.lower()}"] = data
    yield from _sample(shard, key, files)


def _members(shard: Path) -> Iterator[tuple[str, bytes | str]]:
    """Name and bytes of each member, or why it is skipped."""
    try:
        # compressed shards could hide far more than they seem to hold, even in their headers
        with tarfile.open(shard, "r:", errorlevel=1) as tar:
            end = -1
            while (member := tar.next()) is not None:
                if member.offset <= end:
                    raise tarfile.ReadError("it refers back to itself")
                end = member.offset
                tar.members = []  # type: ignore[attr-defined] # or it remembers each
                if member.isdir():
                    continue
                reason = _why_not(member)
                yield _printable(member.name), reason or _content(tar, member)
            _check_end(tar)
    except OSError as error:
        raise LoraTrainError(f"cannot read the shard: {error.strerror or error}.", str(shard)) from error
    except Exception as error:  # tarfile raises almost anything on damaged or hostile data
        raise LoraTrainError(
            f"this is not an uncompressed tar file, or it is damaged ({error}).",
            str(shard),
            "Get it again, as .tar.",
        ) from error


def _check_end(tar: tarfile.TarFile) -> None:
    """tarfile takes a damaged header for the end; check what really is there."""
    assert tar.fileobj
    tar.fileobj.seek(tar.offset)
    if tar.fileobj.read(tarfile.BLOCKSIZE).strip(b"\0"):
        raise tarfile.ReadError("it is cut off in the middle")


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    data = file.read() if file else b""
    if len(data) != member.size:
        raise tarfile.ReadError("unexpected end of data")
    return data


def _why_not(member: tarfile.TarInfo) -> str:
    windows = PureWindowsPath(member.name)
    if windows.drive or windows.root or ".." in windows.parts:
        return "its name leads out of the shard"
    if not member.isreg() or member.issparse():
        return "it is not a regular file"
    if not member.name.strip("/") or "\0" in member.name:
        return "it has no proper name"
    suffix = PurePosixPath(member.name).suffix.lower()
    if suffix in EXTENSIONS:
        limit = MAX_PICTURE
    elif suffix in (*CAPTION_EXTENSIONS, ".json"):
        limit = MAX_TEXT
    else:
        return f"files of this kind are not used ({suffix or 'no extension'})"
    return f"it is too large ({member.size} bytes)" if member.size > limit else ""


def _sample(shard: Path, key: str, files: dict[str, bytes]) -> Iterator[Sample | Rejected]:
    pictures = [extension for extension in files if PurePosixPath(f"x{extension}").suffix in EXTENSIONS]
    if pictures:
        caption = None
        try:
            caption = _caption(files)
        except NotText as error:
            yield Rejected(shard / key, f"its caption is not used: {error}")
        yield Sample(shard, key, pictures[0], files[pictures[0]], caption)
        yield from (Rejected(shard / f"{key}{other}", "a sample has one picture") for other in pictures[1:])
    elif files:
        yield Rejected(shard / key, "there is no picture in this sample")


def _caption(files: dict[str, bytes]) -> str | None:
    for extension in CAPTION_EXTENSIONS:
        if extension in files:
            return "\n".join(lines_of(decode(files[extension])[0]))
    try:
        row = json.loads(files.get(".json", b"null"))
    except (ValueError, RecursionError):
        return None
    values = (row.get(column) for column in CAPTION_COLUMNS) if isinstance(row, dict) else ()
    return next(("\n".join(lines_of(value)) for value in values if isinstance(value, str)), None)


def _printable(name: str) -> str:
    """A member's name in a form that every report can show: bytes that are not UTF-8, and what follows a NUL, are
    escaped."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace").lstrip("/").replace("\0", "\\0")

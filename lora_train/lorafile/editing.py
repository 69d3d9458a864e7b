"""Change the metadata of a safetensors file; its tensors are copied unchanged."""

from __future__ import annotations

import base64
import hashlib
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import IO

from lora_train.atomic import writing
from lora_train.errors import LoraTrainError
from lora_train.lorafile.hashes import LEGACY_HASH, MODEL_HASH, data_hash, told_hash
from lora_train.lorafile.reading import file_metadata
from lora_train.lorafile.writing import LEGACY_AT, LEGACY_LENGTH, check_output, header_bytes
from lora_train.tensors import read_header, read_tensors

THUMBNAIL = "modelspec.thumbnail"
MAX_THUMBNAIL = 2_000_000
"""In bytes of the picture; every program that opens the file reads all of the metadata."""

SIGNATURES = (
    (b"\x89PNG\r\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"RIFF", "image/webp"),
    (b"GIF8", "image/gif"),
)
"""The first bytes of picture files, and their type."""


def edit_metadata(
    path: Path,
    output: Path,
    put: Mapping[str, str],
    remove: Collection[str] = (),
    strip: bool = False,
    overwrite: bool = False,
) -> dict[str, str]:
    """Write `path` as `output` with other metadata, and return the metadata.

    `strip` removes all fields first, `remove` the named ones, `put` adds or replaces. Unless they are removed, the
    file's hashes are computed: `sshs_legacy_hash` covers the `ss_` fields, and some trainers write hashes of nothing.
    `output` may be `path`.
    Raises LoraTrainError when the file cannot be read, or the output exists and may not be overwritten.
    """
    if path.suffix.lower() != ".safetensors":
        raise LoraTrainError("only .safetensors files have metadata.", str(path), "Convert it first.")
    check_output(output, overwrite)
    read_tensors(path)  # whether it is whole: the library checks every offset
    header = {name: entry for name, entry in read_header(path).items() if name != "__metadata__"}
    before = {} if strip else file_metadata(path)
    absent = sorted(set(remove) - before.keys()) if not strip else []
    if absent:
        raise LoraTrainError(f"it has no field {', '.join(absent)}.", str(path), "See `lora-train file metadata FILE`.")
    metadata = {key: value for key, value in before.items() if key not in remove} | dict(put)
    for name in (MODEL_HASH, LEGACY_HASH):
        if not strip and name not in remove:
            metadata.setdefault(name, "")
    if MODEL_HASH in metadata and not told_hash(metadata):
        metadata[MODEL_HASH] = data_hash(path)
    with path.open("rb") as source:
        start = 8 + int.from_bytes(source.read(8), "little")
        if LEGACY_HASH in metadata:
            metadata[LEGACY_HASH] = _legacy_hash(source, start, header, metadata)
        source.seek(start)
        with writing(output) as target:
            target.write(header_bytes(header, metadata))
            shutil.copyfileobj(source, target, 1 << 20)
    return metadata


def thumbnail(picture: Path) -> str:
    """A picture as the data URL that ModelSpec's `thumbnail` field holds. Raises LoraTrainError."""
    try:
        content = picture.read_bytes()
    except OSError as error:
        raise LoraTrainError(f"cannot read the picture: {error.strerror}.", str(picture)) from error
    kind = next((kind for start, kind in SIGNATURES if content.startswith(start)), None)
    if kind is None:
        raise LoraTrainError("this is not a PNG, JPEG, WebP or GIF picture.", str(picture), "Give one of these.")
    if len(content) > MAX_THUMBNAIL:
        raise LoraTrainError(f"the picture has {len(content)} bytes.", str(picture), "Make it smaller than 2 MB.")
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def _legacy_hash(source: IO[bytes], start: int, header: Mapping[str, object], metadata: Mapping[str, str]) -> str:
    """Like `model_hashes`: the hash of 64 KiB at 1 MiB of a file with only the `ss_` metadata."""
    front = header_bytes(header, {key: value for key, value in metadata.items() if key.startswith("ss_")})
    head = front[LEGACY_AT : LEGACY_AT + LEGACY_LENGTH]
    source.seek(start + max(0, LEGACY_AT - len(front)))
    return hashlib.sha256(head + source.read(LEGACY_LENGTH - len(head))).hexdigest()[:8]

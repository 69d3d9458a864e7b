"""Write LoRA files: safetensors with sorted keys and metadata, the same bytes for the same content."""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path

import torch
from safetensors.torch import save

from lora_train.atomic import write_bytes
from lora_train.errors import LoraTrainError

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}

# what the WebUI's additional-networks hash skips: 1 MiB; and how much it reads then
_LEGACY_AT, _LEGACY_LENGTH = 0x100000, 0x10000


def serialise(tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> bytes:
    """The bytes of a safetensors file. The library writes metadata in random order; here it is sorted."""
    data = save({name: tensors[name].contiguous() for name in sorted(tensors)})
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + length])
    if metadata:
        header = {"__metadata__": dict(sorted(metadata.items())), **header}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + data[8 + length :]


def model_hashes(tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> dict[str, str]:
    """`sshs_model_hash` and `sshs_legacy_hash` as kohya's scripts and the WebUI compute them.

    The first is SHA-256 of the tensors' bytes; the second that of 64 KiB at 1 MiB, in a file that
    holds only the `ss_` metadata.
    """
    data = serialise(tensors, {k: v for k, v in metadata.items() if k.startswith("ss_")})
    start = 8 + struct.unpack("<Q", data[:8])[0]
    return {
        "sshs_model_hash": hashlib.sha256(data[start:]).hexdigest(),
        "sshs_legacy_hash": hashlib.sha256(data[_LEGACY_AT : _LEGACY_AT + _LEGACY_LENGTH]).hexdigest()[:8],
    }


def write_lora(
    path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str], precision: str, overwrite: bool
) -> None:
    """Write `tensors` as a LoRA file, atomically. Raises LoraTrainError when it exists or cannot be written."""
    if path.exists() and not overwrite:
        raise LoraTrainError("the file exists already.", str(path), "Choose another name, or allow overwriting.")
    cast = {name: value.to(DTYPES[precision]) for name, value in tensors.items()}
    write_bytes(path, serialise(cast, metadata | model_hashes(cast, metadata)))

"""Write LoRA files: safetensors with sorted keys and metadata, the same bytes for the same content."""

from __future__ import annotations

import hashlib
import json
import math
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save

from lora_train.atomic import write_bytes, writing
from lora_train.errors import LoraTrainError

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}
KEEP = "keep"
"""The precision that leaves every tensor as it is."""

_DTYPE_NAMES = {
    torch.float64: ("F64", 8),
    torch.float32: ("F32", 4),
    torch.float16: ("F16", 2),
    torch.bfloat16: ("BF16", 2),
    torch.float8_e4m3fn: ("F8_E4M3", 1),
    torch.float8_e5m2: ("F8_E5M2", 1),
    torch.int64: ("I64", 8),
    torch.int32: ("I32", 4),
    torch.int16: ("I16", 2),
    torch.int8: ("I8", 1),
    torch.uint8: ("U8", 1),
    torch.bool: ("BOOL", 1),
}
_WIDTHS = dict(_DTYPE_NAMES.values())

Progress = Callable[[int, int], None]
"""Told (done, total); may raise to stop, and then nothing is written."""


def no_progress(done: int, total: int) -> None:
    """Tells nobody."""


# what the WebUI's additional-networks hash skips: 1 MiB; and how much it reads then
LEGACY_AT, LEGACY_LENGTH = 0x100000, 0x10000


def serialise(tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> bytes:
    """The bytes of a safetensors file. The library writes metadata in random order; here it is sorted."""
    data = save({name: tensors[name].contiguous() for name in sorted(tensors)})
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + length])
    return header_bytes(header, metadata) + data[8 + length :]


def model_hashes(tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> dict[str, str]:
    """`sshs_model_hash` and `sshs_legacy_hash` as kohya's scripts and the WebUI compute them.

    The first is SHA-256 of the tensors' bytes; the second that of 64 KiB at 1 MiB, in a file that
    holds only the `ss_` metadata.
    """
    data = serialise(tensors, {k: v for k, v in metadata.items() if k.startswith("ss_")})
    start = 8 + struct.unpack("<Q", data[:8])[0]
    return {
        "sshs_model_hash": hashlib.sha256(data[start:]).hexdigest(),
        "sshs_legacy_hash": hashlib.sha256(data[LEGACY_AT : LEGACY_AT + LEGACY_LENGTH]).hexdigest()[:8],
    }


def write_lora(
    path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str], precision: str, overwrite: bool
) -> None:
    """Write `tensors` as a LoRA file, atomically. `precision` is a key of DTYPES, or KEEP for each tensor's own.

    Raises LoraTrainError when it exists or cannot be written.
    """
    check_output(path, overwrite)
    cast = {name: value.to(DTYPES.get(precision, value.dtype)) for name, value in tensors.items()}
    write_bytes(path, serialise(cast, metadata | model_hashes(cast, metadata)))


def check_output(path: Path, overwrite: bool) -> None:
    """Raise LoraTrainError when `path` is no name for a safetensors file, which readers know by its end, or is there
    and may not be overwritten."""
    if path.suffix.lower() != ".safetensors":
        raise LoraTrainError("the file would be a safetensors file.", str(path), "Give a name with .safetensors.")
    refuse_existing(path, overwrite)


def refuse_existing(path: Path, overwrite: bool) -> None:
    """Raise LoraTrainError when `path` is there and may not be overwritten."""
    if path.exists() and not overwrite:
        raise LoraTrainError("the file exists already.", str(path), "Choose another name, or allow overwriting.")


@dataclass(frozen=True)
class Slot:
    """A tensor that is written when its turn comes: what it will be, and how it is made."""

    dtype: str
    """As safetensors' header has it ("F16")."""
    shape: tuple[int, ...]
    make: Callable[[], torch.Tensor]


def write_stream(
    path: Path, slots: Mapping[str, Slot], metadata: Mapping[str, str], progress: Progress = no_progress
) -> None:
    """Write a safetensors file tensor by tensor, atomically; the bytes are those of `serialise`.

    When `progress` raises, there is no file. Raises LoraTrainError when it cannot be written.
    """
    names = sorted(slots, key=lambda name: (-_width(slots[name]), name))
    header: dict[str, object] = {}
    end = 0
    for name in names:
        slot, start = slots[name], end
        end = start + _width(slot) * math.prod(slot.shape)
        header[name] = {"dtype": slot.dtype, "shape": list(slot.shape), "data_offsets": [start, end]}
    with writing(path) as file:
        file.write(header_bytes(header, metadata))
        for number, name in enumerate(names):
            progress(number, len(names))
            value = slots[name].make().detach().cpu().contiguous()
            if dtype_name(value) != slots[name].dtype or tuple(value.shape) != slots[name].shape:
                raise ValueError(f"{name} is not what was announced")
            file.write(value.reshape(-1).view(torch.uint8).numpy().tobytes() if value.numel() else b"")
    progress(len(names), len(names))


def dtype_name(value: torch.Tensor) -> str:
    """A tensor's dtype as safetensors' header has it."""
    return _DTYPE_NAMES[value.dtype][0]


def _width(slot: Slot) -> int:
    return _WIDTHS[slot.dtype]


def header_bytes(entries: Mapping[str, object], metadata: Mapping[str, str]) -> bytes:
    """A safetensors file up to its data: entries in their order, metadata sorted, filled up to 8 bytes."""
    header = {"__metadata__": dict(sorted(metadata.items())), **entries} if metadata else entries
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text

"""Write LoRA files: safetensors with sorted keys and metadata, the same bytes for the same content."""

from __future__ import annotations

import hashlib
import json
import math
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import torch
from safetensors.torch import save

from lora_train.atomic import write_bytes, writing
from lora_train.errors import LoraTrainError
from lora_train.records.kinds import numbers
from lora_train.tensors import MAX_HEADER, is_finite

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}
KEEP = "keep"
"""The precision that keeps every tensor's own."""

MAX_LOSS = 0.01
"""A share of a tensor's norm. Rounding to bf16 changes 0.1 %, to fp16 0.02 % in its range."""

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
"""Called with (done, total); may raise to stop, and then nothing is written."""


def no_progress(done: int, total: int) -> None:
    """Report to nobody."""


# the WebUI's additional-networks hash skips 1 MiB, and then reads 64 KiB
LEGACY_AT, LEGACY_LENGTH = 0x100000, 0x10000


def serialise(tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> bytes:
    """The bytes of a safetensors file. The library writes metadata in random order; here it is sorted."""
    data = save({name: tensors[name].contiguous() for name in sorted(tensors)})
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + length])
    return header_bytes(header, metadata) + data[8 + length :]


def model_hashes(tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> dict[str, str]:
    """`sshs_model_hash` and `sshs_legacy_hash` as kohya's scripts and the WebUI compute them.

    The first is SHA-256 of the tensors' bytes; the second that of 64 KiB at 1 MiB, in a file with only the `ss_`
    metadata.
    """
    data = serialise(tensors, {k: v for k, v in metadata.items() if k.startswith("ss_")})
    start = 8 + struct.unpack("<Q", data[:8])[0]
    return {
        "sshs_model_hash": hashlib.sha256(data[start:]).hexdigest(),
        "sshs_legacy_hash": hashlib.sha256(data[LEGACY_AT : LEGACY_AT + LEGACY_LENGTH]).hexdigest()[:8],
    }


def write_lora(
    path: Path,
    tensors: dict[str, torch.Tensor],
    metadata: dict[str, str],
    precision: str,
    overwrite: bool,
    untouched: Mapping[str, torch.Tensor] = MappingProxyType({}),
) -> tuple[str, ...]:
    """Write `tensors` as a LoRA file, atomically. `precision` is a key of DTYPES, or KEEP for each tensor's own.

    Single numbers (alpha, an OFT's constraint) are fp32 in every precision, and so are tensors that `narrowed` cannot
    narrow; `untouched` are further tensors, which keep their dtype. Returns notes for the person.
    Raises LoraTrainError when the file exists or cannot be written, or a value is not finite.
    """
    check_output(path, overwrite)
    require_finite(tensors, path)
    cast = {name: in_precision(name, value, precision) for name, value in tensors.items()}
    notes = _wider_notes(tensors, cast, precision)
    cast |= untouched
    metadata, left_out = fitting(metadata)
    notes += [f"The metadata's {name} is left out: a file's header can have {MAX_HEADER} bytes." for name in left_out]
    write_bytes(path, serialise(cast, metadata | model_hashes(cast, metadata)))
    return tuple(notes)


def in_precision(name: str, value: torch.Tensor, precision: str) -> torch.Tensor:
    """A LoRA file's tensor `name` in `precision` (a key of DTYPES, or KEEP)."""
    if precision not in DTYPES:
        return value
    return value.float() if is_number(name) else narrowed(value, DTYPES[precision])


def is_number(name: str) -> bool:
    """Whether the tensor `name` is a single number. These are always fp32: in fp16 an alpha of 1e-8 is 0, which means
    the rank (LoRA) or no bound (OFT), and above 65504 it is infinite."""
    return name.rpartition(".")[2] in numbers()


def narrowed(value: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """`value` in `dtype`; in its own dtype (fp32 for fp64) if values would become infinite, or the whole would change
    by more than MAX_LOSS of its norm: in fp16 values below 3e-8 become 0, and fp8 rounds by several per cent."""
    cast = value.to(dtype)
    exact, rounded = value.double(), cast.double()
    if torch.equal(exact, rounded):
        return cast
    lost = torch.linalg.vector_norm(rounded - exact) > MAX_LOSS * torch.linalg.vector_norm(exact)
    if lost or not is_finite(cast):
        return value.float() if value.dtype == torch.float64 else value
    return cast


def require_finite(tensors: Mapping[str, torch.Tensor], path: Path) -> None:
    """Raise LoraTrainError that names tensors with NaN or infinite values."""
    odd = [name for name, value in tensors.items() if not is_finite(value)]
    if odd:
        some = ", ".join(odd[:3]) + (" ..." if len(odd) > 3 else "")
        raise LoraTrainError(
            f"{len(odd)} tensors have values that are not finite numbers ({some}); nothing is written.",
            str(path),
            "Use a file that was saved earlier, or train again with a lower learning rate.",
        )


def _wider_notes(tensors: Mapping[str, torch.Tensor], cast: Mapping[str, torch.Tensor], precision: str) -> list[str]:
    wider = [name for name, value in cast.items() if _is_wider(name, value, precision)]
    if not wider:
        return []
    zeros = sum(bool(tensors[name].any()) and not tensors[name].to(DTYPES[precision]).any() for name in wider)
    what = f"would turn {zeros} of them into zeros" if zeros else "cannot hold their values"
    return [f"{len(wider)} of {len(cast)} tensors keep their own precision, since {precision} {what} ({wider[0]} ...)."]


def _is_wider(name: str, value: torch.Tensor, precision: str) -> bool:
    wanted = DTYPES.get(precision, value.dtype)
    return value.dtype != wanted and not is_number(name)


def fitting(metadata: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """The metadata without its largest fields, as far as the format's limit of the header requires, and their names."""
    kept, left_out = dict(metadata), []
    while len(json.dumps(kept)) > MAX_HEADER * 0.9:  # the rest is for the tensors' names
        name = max(kept, key=lambda field: len(kept[field]))
        left_out.append(name)
        del kept[name]
    return kept, left_out


def check_output(path: Path, overwrite: bool) -> None:
    """Raise LoraTrainError when `path` does not end with .safetensors, by which programs recognise the format, or when
    it exists and may not be overwritten."""
    if path.suffix.lower() != ".safetensors":
        raise LoraTrainError("the file would be a safetensors file.", str(path), "Give a name with .safetensors.")
    refuse_existing(path, overwrite)


def refuse_existing(path: Path, overwrite: bool) -> None:
    """Raise LoraTrainError when `path` exists and may not be overwritten."""
    if path.exists() and not overwrite:
        raise LoraTrainError("the file exists already.", str(path), "Choose another name, or allow overwriting.")


@dataclass(frozen=True)
class Slot:
    """A tensor to be written later: its dtype and shape, and the function that makes it."""

    dtype: str
    """As in the safetensors header ("F16")."""
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
    """A tensor's dtype as in the safetensors header."""
    return _DTYPE_NAMES[value.dtype][0]


def _width(slot: Slot) -> int:
    return _WIDTHS[slot.dtype]


def header_bytes(entries: Mapping[str, object], metadata: Mapping[str, str]) -> bytes:
    """A safetensors file up to its data: entries in their order, metadata sorted, padded to 8 bytes.

    Raises LoraTrainError when that is more than the format allows.
    """
    header = {"__metadata__": dict(sorted(metadata.items())), **entries} if metadata else entries
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
    text += b" " * (-len(text) % 8)
    if len(text) > MAX_HEADER:
        raise LoraTrainError(
            f"the metadata needs a header of {len(text)} bytes; the format allows {MAX_HEADER}.",
            max(metadata, key=lambda name: len(metadata[name]), default=""),
            "Shorten this field or leave it out.",
        )
    return struct.pack("<Q", len(text)) + text

"""Read tensors from strangers' files: never unpickling code, never a bare traceback."""

from __future__ import annotations

import json
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, load_file

from lora_train.errors import LoraTrainError
from lora_train.first_bytes import AGAIN, content_of, is_safetensors
from lora_train.pickled import PickledFile, PickledTensor, repeats_too_much, weights_in
from lora_train.showing import encodable

MAX_HEADER = 100_000_000
"""The format's own limit for a header, in bytes."""

GIVE_ANOTHER = "Give a .safetensors or .ckpt file of a Stable Diffusion model, or a diffusers folder."


def read_header(path: Path, fix: str = GIVE_ANOTHER) -> dict[str, dict[str, object]]:
    """Names, dtypes and shapes in a safetensors file, without its tensors; metadata under `__metadata__`.

    Raises LoraTrainError, with what the file is instead where its first bytes show it, else with `fix` as what to do.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(9)
            length = struct.unpack("<Q", start[:8])[0] if len(start) >= 8 else -1
            if start[8:] == b"{" and size - 8 < length <= MAX_HEADER:
                raise LoraTrainError(_cut_off(size, f"at least {length + 8}"), str(path), AGAIN)
            if not 2 <= length <= min(MAX_HEADER, size - 8):
                raise ValueError("its header's length makes no sense")
            header = json.loads(start[8:] + file.read(length - 1), object_pairs_hook=_unique)
        if not isinstance(header, dict):
            raise ValueError("its header is not a table")
        end = _end(header)
    except OSError as error:
        raise LoraTrainError(f"cannot read the file: {error.strerror}.", str(path)) from error
    except (ValueError, UnicodeDecodeError, RecursionError) as error:
        content = content_of(path)
        if content is not None:
            raise LoraTrainError(f"this is {content.what}, not a safetensors file.", str(path), content.fix) from error
        raise LoraTrainError(f"this is not a safetensors file ({error}).", str(path), fix) from error
    if 8 + length + end > size:  # an interrupted download is noticed at once
        raise LoraTrainError(_cut_off(size, str(8 + length + end)), str(path), AGAIN)
    if 8 + length + end < size:
        raise LoraTrainError(
            f"the file is damaged: {size - 8 - length - end} bytes follow its last tensor.", str(path), AGAIN
        )
    return header


def header_metadata(header: Mapping[str, object]) -> dict[str, str]:
    """The metadata in a safetensors header as texts, which the format demands; others' numbers, lists and tables are
    written as JSON."""
    found = header.get("__metadata__")
    texts = {key: one if isinstance(one, str) else json.dumps(one) for key, one in _items(found)}
    return {encodable(key): encodable(text) for key, text in texts.items()}


def odd_metadata(header: Mapping[str, object]) -> list[str]:
    """The metadata fields that are not texts, for which most programs refuse the whole file."""
    return [key for key, one in _items(header.get("__metadata__")) if not isinstance(one, str)]


def _items(table: object) -> list[tuple[str, object]]:
    return list(table.items()) if isinstance(table, dict) else []


def _cut_off(there: int, whole: str) -> str:
    return f"the file is cut off or damaged: the download or copy stopped at {there} of {whole} bytes."


def _end(header: dict[str, dict[str, object]]) -> int:
    """Where the last tensor ends, in bytes behind the header. Raises ValueError when the header does not say."""
    try:
        return max((int(header[name]["data_offsets"][1]) for name in header if name != "__metadata__"), default=0)  # type: ignore[index]
    except (KeyError, IndexError, TypeError, ValueError, OverflowError) as error:
        raise ValueError("its header does not say where the tensors are") from error


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """A JSON object; a key that is there twice is an error, not overwritten by the last."""
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {twice[:120]} is there twice")
    return found


def holds_safetensors(path: Path) -> bool:
    """Whether the file is a safetensors file: by its name, or by its content under another name (`.pt`, `.ckpt`)."""
    return path.suffix.lower() == ".safetensors" or is_safetensors(path)


def read_tensors(path: Path, fix: str = GIVE_ANOTHER, stand_ins: bool = False) -> dict[str, torch.Tensor]:
    """All tensors of a `.safetensors`, `.ckpt`, `.pt` or `.bin` file, memory-mapped where possible.

    No code in a pickle is run: it is read with `weights_only`, which refuses one that names anything but tensors;
    with `stand_ins` such names become inert objects (see `pickled`). Raises LoraTrainError, with `fix` as what to do.
    """
    if holds_safetensors(path):
        return _read_safetensors(path, read_header(path, fix))
    return _read_pickle(path, fix, stand_ins)


def _read_safetensors(path: Path, header: Mapping[str, object]) -> dict[str, torch.Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        try:
            # the library refuses the file for metadata that are not texts, or not UTF-8; the tensors may be sound
            return load_without_metadata(path, header)
        except (SafetensorError, OSError):
            raise LoraTrainError(f"the file is damaged ({error}).", str(path), AGAIN) from error


def load_without_metadata(path: Path, header: Mapping[str, object]) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file, read into memory, whatever its metadata are. Raises SafetensorError."""
    plain = json.dumps({name: entry for name, entry in header.items() if name != "__metadata__"}).encode()
    with path.open("rb") as file:
        file.seek(8 + struct.unpack("<Q", file.read(8))[0])
        return load(struct.pack("<Q", len(plain)) + plain + file.read())


def _read_pickle(path: Path, fix: str, stand_ins: bool) -> dict[str, torch.Tensor]:
    if stand_ins and _is_zip(path):
        with _refused(path, fix):
            pickled = PickledFile(path)
            tensors = pickled.read(_weights(pickled, path, fix))
        return tensors
    with _refused(path, fix):
        # torch's first format is not safe with `weights_only` before torch 2.6, which refuses it (CVE-2025-32434)
        if tarfile.is_tarfile(path):
            raise pickle.UnpicklingError("a tar archive")
        if _is_script(path):  # before torch 2.6 `weights_only` does not keep it from `torch.jit`, which runs its code
            raise pickle.UnpicklingError("a script")
        with path.open("rb") as opened:
            # WebUI hosts replace torch.load by one that returns None; the underlying function does not
            content = torch.serialization.load(opened, map_location="cpu", weights_only=True)
        tensors = weights_in(content, torch.Tensor)
        if any(repeats_too_much(one.shape, one.untyped_storage().nbytes()) for one in tensors.values()):
            raise pickle.UnpicklingError("a tensor claims to be far larger than its values")
    if not tensors:
        raise LoraTrainError(f"there are no weights in this file{_instead(content)}.", str(path), fix)
    return tensors


def read_shapes(path: Path, fix: str = GIVE_ANOTHER) -> tuple[dict[str, tuple[int, ...]], tuple[str, ...]]:
    """Names and shapes of the tensors in a base model's file, and what else a pickle names, which was not run.

    Their values are not read, except in torch's format from before 1.6. Raises LoraTrainError as `read_tensors` does.
    """
    if holds_safetensors(path):
        header = read_header(path, fix)
        entries = {name: entry for name, entry in header.items() if name != "__metadata__" and isinstance(entry, dict)}
        shapes = {name: entry["shape"] for name, entry in entries.items() if isinstance(entry.get("shape"), list)}
        return {name: tuple(shape) for name, shape in shapes.items()}, ()  # type: ignore[arg-type]
    if not _is_zip(path):
        return {name: tuple(value.shape) for name, value in read_tensors(path, fix).items()}, ()
    with _refused(path, fix):
        file = PickledFile(path)
        found = {name: tensor.shape for name, tensor in _weights(file, path, fix).items()}
    return found, file.foreign


def _is_zip(path: Path) -> bool:
    with _refused(path, GIVE_ANOTHER), path.open("rb") as file:
        return file.read(4) == b"PK\x03\x04"


def _is_script(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.rpartition("/")[2] == "constants.pkl" for name in archive.namelist())


def _weights(file: PickledFile, path: Path, fix: str) -> dict[str, PickledTensor]:
    tensors = weights_in(file.content)
    if not tensors and file.foreign:
        raise pickle.UnpicklingError(f"only {file.foreign[0]}")
    if not tensors:
        raise LoraTrainError("there are no weights in this file.", str(path), fix)
    return tensors


@contextmanager
def _refused(path: Path, fix: str) -> Iterator[None]:
    """Whatever the unpicklers raise on damaged or hostile data, as a LoraTrainError."""
    try:
        yield
    except LoraTrainError:
        raise
    except OSError as error:
        raise LoraTrainError(f"cannot read the file: {error.strerror}.", str(path)) from error
    except Exception as error:
        found = content_of(path)
        if found is not None and not found.pickle:
            raise LoraTrainError(f"this is {found.what}, not a model.", str(path), found.fix) from error
        raise LoraTrainError(
            "this is not a checkpoint, or it contains more than weights, which is not loaded for safety.",
            str(path),
            fix,
        ) from error


def _instead(content: object) -> str:
    """What a pickle without named weights is, for a message."""
    if isinstance(content, dict) and "string_to_param" in content:
        return ": it is an embedding (textual inversion), which belongs in the embeddings folder"
    if isinstance(content, (list, tuple)) and any(isinstance(value, torch.Tensor) for value in content):
        return "'s table: it is a list without names, as cloneofsimo's `lora` wrote in its first form"
    return ""


def is_finite(value: torch.Tensor) -> bool:
    """Whether a tensor of any dtype has neither NaN nor infinite values."""
    if not value.is_floating_point():
        return True
    wide = value.float()
    # the sum is finite unless a value is not, or values are beyond any network's: then each is checked
    return bool(torch.isfinite(wide.sum()) or torch.isfinite(wide).all())

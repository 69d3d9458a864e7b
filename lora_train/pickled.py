"""Tensors from torch's zip files, without running anything in their pickles.

A pickle is a program that names classes and functions and calls them. Here the only names that mean anything
rebuild tensors, by functions of our own; every other one becomes an inert stand-in, whatever is called or set on
it. SD 1.4 and 1.5 were published like that, with pytorch_lightning's ModelCheckpoint as a key beside the weights.

Source: torch's `serialization.py` and `_utils.py`; Python's documentation of pickle, "Restricting Globals".
"""

from __future__ import annotations

import io
import math
import pickle
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

MAX_PICKLE = 200_000_000
"""Bytes of a pickle without its tensors; real ones have about 0.3 MB."""
MAX_REPEATED = 1 << 20
"""Elements that a tensor may have even if the file holds fewer values (strides of 0 repeat them)."""
_DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "UntypedStorage": torch.uint8,
}


class StandIn:
    """Stands for any unknown class, function or object. Nothing done with it has an effect."""

    def __new__(cls, *arguments: Any, **named: Any) -> StandIn:
        return object.__new__(cls)

    def __init__(self, *arguments: Any, **named: Any) -> None:
        pass

    def __call__(self, *arguments: Any, **named: Any) -> StandIn:
        return StandIn()

    def __setstate__(self, state: Any = None) -> None:
        pass

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def append(self, value: Any) -> None:
        """Of a list."""

    def extend(self, values: Any) -> None:
        """Of a list."""

    def add(self, value: Any) -> None:
        """Of a set."""


class _Table(dict):  # type: ignore[type-arg]
    """For OrderedDict, whose own state does not matter."""

    def __setstate__(self, state: Any) -> None:
        pass


@dataclass(frozen=True)
class _Storage:
    """Where a tensor's values lie in the archive."""

    key: str
    dtype: torch.dtype
    count: int


@dataclass(frozen=True)
class PickledTensor:
    """A tensor whose values have not been read."""

    storage: _Storage
    dtype: torch.dtype
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    def __setstate__(self, state: Any) -> None:
        pass

    def __post_init__(self) -> None:
        numbers = (self.offset, *self.shape, *self.stride)
        if len(self.shape) != len(self.stride) or not all(isinstance(n, int) and n >= 0 for n in numbers):
            raise ValueError("a tensor's shape makes no sense")
        if repeats_too_much(self.shape, self.storage.count):
            raise ValueError("a tensor claims to be far larger than its values")


def repeats_too_much(shape: Sequence[int], stored: int) -> bool:
    """Whether a tensor would take far more memory than the `stored` values that it is made of: a few bytes in a file
    can become a terabyte as soon as something is computed from them."""
    return math.prod(shape) > max(stored, MAX_REPEATED)


class _Rebuild:
    """torch's functions that rebuild tensors, as far as checkpoints use them; they cannot be changed."""

    __slots__ = ("_name",)
    _name: str

    def __init__(self, name: str) -> None:
        object.__setattr__(self, "_name", name)

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError("fixed")

    def __setstate__(self, state: Any) -> None:
        pass

    def __call__(self, *given: Any) -> Any:
        if self._name in ("_rebuild_parameter", "_rebuild_parameter_with_state"):
            return given[0]
        if self._name == "_rebuild_from_type_v2":  # function, type, arguments, state
            return given[0](*given[2]) if isinstance(given[0], _Rebuild) else StandIn()
        storage, offset, shape, stride = given[:4]
        if not isinstance(storage, _Storage):
            raise pickle.UnpicklingError("a tensor without a storage")
        dtype = given[6] if self._name == "_rebuild_tensor_v3" else storage.dtype
        if not isinstance(dtype, torch.dtype):
            raise pickle.UnpicklingError("a tensor without a dtype")
        return PickledTensor(storage, dtype, offset, tuple(shape), tuple(stride))


_CONTAINERS = ("set", "frozenset", "list", "dict", "tuple", "bytearray", "complex")
"""Python's own, which are not worth reporting."""
_REBUILDS = frozenset(
    (
        "_rebuild_tensor",
        "_rebuild_tensor_v2",
        "_rebuild_tensor_v3",
        "_rebuild_parameter",
        "_rebuild_parameter_with_state",
        "_rebuild_from_type_v2",
    )
)


class _Unpickler(pickle._Unpickler):
    """The one written in Python: its memo is a dict, so that a forged index takes no memory."""

    def __init__(self, content: bytes) -> None:
        super().__init__(io.BytesIO(content), encoding="utf-8", errors="replace")
        self.foreign: list[str] = []

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return _Table
        if module == "torch._utils" and name in _REBUILDS:
            return _Rebuild(name)
        if module in ("torch", "torch.storage", "torch.cuda") and name in _DTYPES:
            return _DTYPES[name]
        if module == "torch" and isinstance(vars(torch).get(name), torch.dtype):
            return vars(torch)[name]
        if (module, name) == ("torch", "Size"):
            return tuple
        if not (module in ("builtins", "__builtin__") and name in _CONTAINERS):
            self.foreign.append(f"{module}.{name}")
        return StandIn

    def get_extension(self, code: int) -> None:
        """Python's own would use what the process has registered."""
        raise pickle.UnpicklingError("an extension code")

    def persistent_load(self, pid: Any) -> Any:
        if not (isinstance(pid, tuple) and len(pid) >= 5 and pid[0] == "storage" and isinstance(pid[1], torch.dtype)):
            return StandIn()
        return _Storage(str(pid[2]), pid[1], int(pid[4]))


class PickledFile:
    """A zip file of torch's. Raises ValueError, OSError or whatever a damaged pickle leads to."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if name == "data.pkl" or name.endswith("/data.pkl")]
            if len(names) != 1:
                raise ValueError("this zip file is not torch's")
            self._root = names[0].removesuffix("data.pkl")
            if archive.getinfo(names[0]).file_size > MAX_PICKLE:
                raise ValueError("its list of tensors is too long")
            order = f"{self._root}byteorder"
            if order in archive.namelist() and _stored(archive, order, 16) not in (b"little", b""):
                raise ValueError("it was written by a computer with another byte order")
            unpickler = _Unpickler(_stored(archive, names[0], MAX_PICKLE))
        self.content: Any = unpickler.load()
        """What was pickled, with PickledTensor for its tensors."""
        self.foreign = tuple(dict.fromkeys(unpickler.foreign))
        """Classes and functions it names that have nothing to do with tensors, as "module.name"."""

    def read(self, tensors: dict[str, PickledTensor]) -> dict[str, torch.Tensor]:
        """The values of `tensors`; those that share memory in the file share it here."""
        storages: dict[str, torch.Tensor] = {}
        read = {}
        with zipfile.ZipFile(self._path) as archive:
            for name, tensor in tensors.items():
                key = tensor.storage.key
                if key not in storages:
                    storages[key] = self._bytes(archive, tensor.storage)
                read[name] = _as_tensor(tensor, storages[key])
        return read

    def _bytes(self, archive: zipfile.ZipFile, storage: _Storage) -> torch.Tensor:
        size = storage.count * storage.dtype.itemsize
        with _open(archive, f"{self._root}data/{storage.key}", size) as file:
            content = bytearray(size)
            if file.readinto(content) != size:  # type: ignore[attr-defined]
                raise ValueError("a tensor's values are cut off")
        return torch.frombuffer(content, dtype=torch.uint8) if size else torch.empty(0, dtype=torch.uint8)


def _open(archive: zipfile.ZipFile, name: str, size: int) -> Any:
    entry = archive.getinfo(name)
    if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != size:
        raise ValueError("a tensor does not have the size that it claims")
    return archive.open(entry)


def _stored(archive: zipfile.ZipFile, name: str, most: int) -> bytes:
    entry = archive.getinfo(name)
    if entry.compress_type != zipfile.ZIP_STORED or entry.file_size > most:
        raise ValueError("its list of tensors is compressed or too long")
    return archive.read(entry)


def _as_tensor(tensor: PickledTensor, content: torch.Tensor) -> torch.Tensor:
    values = content.view(tensor.dtype)
    if 0 in tensor.shape:
        return values.new_empty(tensor.shape)
    last = tensor.offset + sum((side - 1) * stride for side, stride in zip(tensor.shape, tensor.stride))
    if last >= len(values):
        raise ValueError("a tensor reaches beyond its values")
    return values.as_strided(tensor.shape, tensor.stride, tensor.offset)


def weights_in(content: Any, kind: type = PickledTensor) -> dict[str, Any]:
    """The table of weights in what was pickled: itself, or under the names that trainers put it under."""
    for _ in range(8):  # it may contain itself
        if not isinstance(content, dict):
            break
        content = next((content[name] for name in _NESTS if isinstance(content.get(name), dict)), content)
    if not isinstance(content, dict):
        return {}
    return {name: value for name, value in content.items() if isinstance(name, str) and isinstance(value, kind)}


_NESTS: Sequence[str] = ("state_dict", "model_state_dict", "model", "module", "params")

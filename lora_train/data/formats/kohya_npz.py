"""kohya's latent cache on disk: one `.npz` per picture, unscaled latents, sizes in pixels.

After sd-scripts' `library/strategy_base.py`. Stable Diffusion's files hold one resolution under plain keys
(`latents`, `original_size`, `crop_ltrb`, `latents_flipped`, `alpha_mask`); those of later families hold
several, each key ending in the latents' `_HxW`. Both are read; numpy only, no pickles.
"""

from __future__ import annotations

import io
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lora_train.atomic import write_bytes
from lora_train.data.buckets import Size
from lora_train.errors import LoraTrainError
from lora_train.records.families import FAMILIES

OWN = ("lora_train_picture", "lora_train_vae")
"""Our own keys, which sd-scripts ignores: hashes as bytes of text."""
MAX_ARRAY = 1 << 30
"""Bytes; an array that claims to be larger is not read."""
MAKE_AGAIN = "Delete it: sd-scripts or LoRA Train writes it again."


@dataclass(frozen=True)
class KohyaLatents:
    """One picture at one resolution; arrays are float32."""

    latents: np.ndarray
    """(C, H, W): a sample of the VAE's output, not multiplied by the latent scale."""
    original_size: Size
    """Width and height of the picture's file."""
    crop_ltrb: tuple[int, int, int, int]
    """The part in the bucket, in pixels after scaling: left, top, right, bottom."""
    flipped: np.ndarray | None = None
    """(C, H, W) of the mirrored picture."""
    alpha_mask: np.ndarray | None = None
    """(height, width) of the bucket."""
    content: str = ""
    """The hash of the picture's file; like the VAE's, only in files that LoRA Train wrote."""
    vae: str = ""


def npz_path(picture: Path, size: Size, family: str) -> Path:
    """Where sd-scripts keeps the latents of `picture`, `size` being the picture's own width and height.

    An existing `<stem>.npz` wins, as in sd-scripts. Raises LoraTrainError for a family without such files.
    """
    old = picture.with_suffix(".npz")
    if old.exists():
        return old
    suffixes = {name: one.npz for name, one in FAMILIES.items() if one.npz}
    if family not in suffixes:
        known = ", ".join(suffixes)
        raise LoraTrainError(f"kohya's latents are not supported for {family!r}.", "family", f"Choose one of {known}.")
    return picture.with_name(f"{picture.stem}_{size[0]:04d}x{size[1]:04d}{suffixes[family]}")


def resolutions(file: Path) -> list[Size | None]:
    """The latents' width and height per resolution in the file; None for plain keys. Raises LoraTrainError."""
    found: list[Size | None] = []
    for key in _arrays(file, only=()):
        match = re.fullmatch(r"latents(?:_(\d{1,6})x(\d{1,6}))?", key)
        if match:
            found.append((int(match[2]), int(match[1])) if match[1] else None)
    return found


def read_npz(file: Path, size: Size | None = None) -> KohyaLatents:
    """Latents of width and height `size` (None: the only ones in the file), from either form of keys.

    Raises LoraTrainError when the file is damaged, holds pickles, or not these latents.
    """
    kept = resolutions(file)
    if size is None and len(kept) == 1:
        suffix = _suffix(kept[0])
    elif size in kept:
        suffix = _suffix(size)
    elif None in kept:
        suffix = ""
    else:
        has = ", ".join(f"{found[0]}x{found[1]}" for found in kept if found) or "none"
        raise LoraTrainError(f"it holds latents of other sizes ({has}; needed: {size}).", str(file), MAKE_AGAIN)
    names = ("latents", "original_size", "crop_ltrb", "latents_flipped", "alpha_mask")
    arrays = _arrays(file, only=(*(name + suffix for name in names), *(name + suffix for name in OWN)))
    latents, original, crop, flipped, mask = (arrays.get(name + suffix) for name in names)
    if latents is None or original is None or crop is None:
        raise LoraTrainError("original_size or crop_ltrb is missing: the cache is too old.", str(file), MAKE_AGAIN)
    shapes_fit = (
        latents.ndim == 3
        and (size is None or latents.shape[:0:-1] == size)
        and (flipped is None or flipped.shape == latents.shape)
        and (mask is None or mask.ndim == 2)
        and original.shape == (2,)
        and crop.shape == (4,)
    )
    numbers = (array for array in (latents, original, crop, flipped, mask) if array is not None)
    if not shapes_fit or not all(array.dtype.kind in "fiu" and np.isfinite(array).all() for array in numbers):
        raise LoraTrainError("its arrays are not latents of this size.", str(file), MAKE_AGAIN)
    width, height = (int(side) for side in original)
    left, top, right, bottom = (int(side) for side in crop)
    content, vae = (_text(arrays.get(name + suffix)) for name in OWN)
    box = left, top, right, bottom
    return KohyaLatents(_float(latents), (width, height), box, _maybe(flipped), _maybe(mask), content, vae)


def write_npz(file: Path, entry: KohyaLatents, multi_resolution: bool = False) -> None:
    """Write one picture's latents atomically, as sd-scripts does: other content of the file stays.

    With `multi_resolution` the keys end in `_HxW`. Raises LoraTrainError when an existing file is damaged.
    """
    arrays = _arrays(file) if file.exists() else {}
    height, width = entry.latents.shape[-2:]
    suffix = _suffix((width, height)) if multi_resolution else ""
    optional = {"latents_flipped": entry.flipped, "alpha_mask": entry.alpha_mask}
    arrays["latents" + suffix] = _float(entry.latents)
    arrays["original_size" + suffix] = np.array(entry.original_size)
    arrays["crop_ltrb" + suffix] = np.array(entry.crop_ltrb)
    for name, value in optional.items():
        # arrays that belong to other latents would be wrong for these
        arrays.pop(name + suffix, None)
        if value is not None:
            arrays[name + suffix] = _float(value)
    for name, text in zip(OWN, (entry.content, entry.vae)):
        arrays.pop(name + suffix, None)
        if text:
            arrays[name + suffix] = np.frombuffer(text.encode(), np.uint8)
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    write_bytes(file, buffer.getvalue())


def _arrays(file: Path, only: tuple[str, ...] | None = None) -> dict[str, np.ndarray]:
    """Arrays by key: all, or those in `only`; the keys alone (with empty arrays) when `only` is empty."""
    found: dict[str, np.ndarray] = {}
    try:
        with zipfile.ZipFile(file) as archive:
            for info in archive.infolist():
                key = info.filename.removesuffix(".npy")
                if only == ():
                    found[key] = np.empty(0)
                elif only is None or key in only:
                    if info.file_size > MAX_ARRAY:
                        raise ValueError(f"{key} is too large")
                    found[key] = np.lib.format.read_array(io.BytesIO(archive.read(info)), allow_pickle=False)
    except OSError as error:
        raise LoraTrainError(f"cannot read the latents: {error.strerror or error}.", str(file)) from error
    except Exception as error:  # zip and numpy raise almost anything on damaged or hostile data
        raise LoraTrainError(f"this is not a cache of latents ({error}).", str(file), MAKE_AGAIN) from error
    return found


def _text(array: np.ndarray | None) -> str:
    return "" if array is None else array.tobytes().decode("utf-8", "replace")


def _suffix(size: Size | None) -> str:
    return f"_{size[1]}x{size[0]}" if size else ""


def _float(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array, dtype=np.float32)


def _maybe(array: np.ndarray | None) -> np.ndarray | None:
    return None if array is None else _float(array)

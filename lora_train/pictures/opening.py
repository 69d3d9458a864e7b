"""Open pictures as people have them: rotated by EXIF, with alpha, animated, or broken."""

from __future__ import annotations

import importlib
import math
import os
import warnings
from functools import lru_cache
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
from PIL import Image, ImageOps

from lora_train.pictures.kinds import EXTENSIONS as EXTENSIONS
from lora_train.pictures.kinds import START, kind_of

MAX_PIXELS = 500_000_000
"""More than this is refused as a decompression bomb."""
LARGE = 64_000_000
"""Pixels above which a picture is scaled down while it is converted, where less is enough: copies would fill memory."""
BAND = 1_000_000
"""How many pixels are then converted at a time."""
BACKGROUND = (255, 255, 255)
"""The colour behind transparent parts of a picture."""


class Reader(NamedTuple):
    """A package that lets Pillow read a kind of picture."""

    package: str
    module: str
    function: str
    """The function to call once; "" where importing the module is enough."""
    endings: tuple[str, ...]
    """What Pillow has registered when it can read them."""


READERS = {
    "HEIC": Reader("pillow-heif", "pillow_heif", "register_heif_opener", (".heic", ".heif")),
    "AVIF": Reader("pillow-avif-plugin", "pillow_avif", "", (".avif",)),
    "JPEG XL": Reader("pillow-jxl-plugin", "pillow_jxl", "", (".jxl",)),
}


class BrokenPicture(Exception):
    """A file that cannot be read as a picture; the message says why, in plain words."""


class NotHere(BrokenPicture):
    """A picture that may be readable later: when a reader is installed, or when there is more memory."""


class NoReader(NotHere):
    """No installed package reads pictures of this kind."""

    def __init__(self, kind: str) -> None:
        self.kind, self.package = kind, READERS[kind].package
        super().__init__(f"no reader for {kind} pictures is installed (pip install {self.package})")


class Look(NamedTuple):
    """What a file's header says: width and height as displayed, and whether other frames follow the first."""

    width: int
    height: int
    moving: bool


def look_at(path: Path) -> Look:
    """What the file's header says of the picture, EXIF orientation applied. Raises BrokenPicture."""
    with _open(path) as image:
        width, height = image.size
        try:
            turned = _orientation(image) in (5, 6, 7, 8)
        except Exception:  # damaged EXIF; whether the picture itself is damaged shows when it is loaded
            turned = False
        try:
            # the second picture of an MPO is the other eye's view, or a gain map
            moving = image.format != "MPO" and bool(getattr(image, "is_animated", False))
        except Exception:  # as above
            moving = False
    return Look(height, width, moving) if turned else Look(width, height, moving)


def picture_size(path: Path) -> tuple[int, int]:
    """Width and height as displayed (EXIF orientation applied), from the file's header alone. Raises BrokenPicture."""
    look = look_at(path)
    return look.width, look.height


def _orientation(image: Image.Image) -> int:
    """EXIF (or XMP) orientation 1 to 8, as `exif_transpose` finds it once the picture is loaded.

    Pillow's getexif decodes a PNG whole, which is needed only where metadata follow the pixels.
    """
    whole = image.format != "PNG" or _described_at_the_end(image)
    exif = image.getexif() if whole else Image.Image.getexif(image)
    return int(exif.get(0x0112, 1))


def _described_at_the_end(image: Image.Image) -> bool:
    """Whether a PNG has EXIF or text behind its pixels."""
    file: IO[bytes] = image.fp  # type: ignore[attr-defined, unused-ignore]
    place, pixels, described = file.tell(), False, False
    file.seek(8)
    while len(head := file.read(8)) == 8:
        pixels |= head[4:] == b"IDAT"
        described |= pixels and head[4:] in (b"eXIf", b"iTXt", b"tEXt", b"zTXt")
        file.seek(int.from_bytes(head[:4], "big") + 4, os.SEEK_CUR)
    file.seek(place)
    return described


def load_picture(path: Path, at_least: int | None = None, background: tuple[int, int, int] = BACKGROUND) -> Image.Image:
    """The whole picture as RGB: first frame, EXIF orientation applied, alpha on `background`.

    With `at_least`, a JPEG may be decoded at 1/2, 1/4 or 1/8 of its size (which is faster), and any picture of more
    than LARGE pixels is reduced by a whole factor; its longest side keeps at least that many pixels. Raises
    BrokenPicture.
    """
    size = (0, 0)
    try:
        with _open(path) as image:
            size = image.size
            if at_least and at_least < max(image.size):
                ratio = at_least / max(image.size)
                image.draft("", (math.ceil(image.width * ratio), math.ceil(image.height * ratio)))
            image.load()
            deep = _range(image)
            factor = max(image.size) // at_least if at_least and image.width * image.height > LARGE else 1
            if factor > 1:
                return ImageOps.exif_transpose(_reduced(image, factor, background, deep))
            return _as_rgb(ImageOps.exif_transpose(image), background, deep)
    except BrokenPicture:
        raise
    except MemoryError as error:
        raise NotHere(f"there is not enough memory to open it ({size[0]} x {size[1]} pixels)") from error
    except Exception as error:  # Pillow raises almost anything on damaged data
        raise BrokenPicture(f"the file is damaged ({error})") from error


def has_alpha(path: Path) -> bool:
    """Whether the picture can be transparent somewhere, from the file's header alone. Raises BrokenPicture."""
    with _open(path) as image:
        return _alpha(image)


def load_alpha(path: Path) -> Image.Image:
    """How opaque the picture is (mode L), first frame, EXIF orientation applied; white without alpha.

    Raises BrokenPicture.
    """
    try:
        with _open(path) as image:
            image.load()
            upright = ImageOps.exif_transpose(image)
            return upright.convert("RGBA").getchannel("A") if _alpha(upright) else Image.new("L", upright.size, 255)
    except BrokenPicture:
        raise
    except MemoryError as error:
        raise NotHere("there is not enough memory to open it") from error
    except Exception as error:  # as above
        raise BrokenPicture(f"the file is damaged ({error})") from error


@lru_cache
def _register_readers() -> None:
    """Register the installed readers with Pillow."""
    for reader in READERS.values():
        try:
            module = importlib.import_module(reader.module)
            if reader.function:
                getattr(module, reader.function)()
        except Exception:  # absent, or not for this Pillow: pictures of the kind are reported
            continue


def _open(path: Path) -> Image.Image:
    _register_readers()
    if path.stat().st_size == 0:
        raise BrokenPicture("the file is empty")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(path)
    except Image.DecompressionBombError as error:
        raise _too_large(Image.MAX_IMAGE_PIXELS and 2 * Image.MAX_IMAGE_PIXELS) from error
    except MemoryError as error:
        raise NotHere("there is not enough memory to open it") from error
    except Image.UnidentifiedImageError as error:
        raise _unknown(path) from error
    except Exception as error:
        system = isinstance(error, OSError) and error.errno is not None
        raise BrokenPicture(f"the file {'cannot be read' if system else 'is damaged'} ({error})") from error
    if image.width * image.height > MAX_PIXELS:
        image.close()
        raise _too_large(MAX_PIXELS)
    return image


def _too_large(limit: int | None) -> BrokenPicture:
    million = min(limit or MAX_PIXELS, MAX_PIXELS) // 1_000_000
    return BrokenPicture(f"the picture is far too large to be opened safely (more than {million} million pixels)")


def _unknown(path: Path) -> BrokenPicture:
    """Why Pillow cannot identify a file, by its content: names can be wrong."""
    with path.open("rb") as file:
        kind = kind_of(file.read(START))
    if kind in READERS and not any(ending in Image.registered_extensions() for ending in READERS[kind].endings):
        return NoReader(kind)
    if kind == "TIFF":
        return BrokenPicture("this kind of TIFF is not read (save it as PNG)")
    if kind:
        return BrokenPicture(f"the file is damaged (it begins as {kind}, but does not continue as one)")
    return BrokenPicture(f"this is not a picture, whatever its name ends in ({path.suffix})")


def _alpha(image: Image.Image) -> bool:
    # PNGs without an alpha channel may name one colour that is transparent
    named = image.mode in ("P", "RGB", "L", "1") and "transparency" in image.info
    return image.mode in ("RGBA", "LA", "PA") or named


def _as_rgb(
    image: Image.Image, background: tuple[int, int, int], deep: tuple[float, float] | None = None
) -> Image.Image:
    """In 8 bits per channel. `deep` are the values that become black and white, where pixels have a wider range."""
    if deep is not None:
        with np.errstate(invalid="ignore"):
            values = (np.asarray(image, dtype=np.float32) - deep[0]) * (255 / max(deep[1] - deep[0], 1e-30))
        bytes_ = np.nan_to_num(values, posinf=255, neginf=0).round().clip(0, 255).astype(np.uint8)
        return Image.fromarray(bytes_).convert("RGB")
    if _alpha(image):
        image = image.convert("RGBA")
        canvas = Image.new("RGBA", image.size, (*background, 255))
        return Image.alpha_composite(canvas, image).convert("RGB")
    if image.mode == "LAB":
        return _from_lab(image)
    return image.convert("RGB")


def _reduced(
    image: Image.Image, factor: int, background: tuple[int, int, int], deep: tuple[float, float] | None
) -> Image.Image:
    """As RGB, reduced by a whole factor, strip by strip: there is never a second picture of the full size in memory."""
    width, height = math.ceil(image.width / factor), math.ceil(image.height / factor)
    canvas, rows = Image.new("RGB", (width, height)), factor * max(1, BAND // (image.width * factor))
    for top in range(0, image.height, rows):
        band = image.crop((0, top, image.width, min(image.height, top + rows)))
        band.info = image.info  # it may name a transparent colour
        canvas.paste(_as_rgb(band, background, deep).reduce(factor), (0, top // factor))
    exif = image.getexif()
    if 0x0112 in exif:
        canvas.getexif()[0x0112] = exif[0x0112]
    return canvas


def _range(image: Image.Image) -> tuple[float, float] | None:
    """The values that become black and white in a loaded picture whose pixels are not bytes; None where they are.

    16 bits have their own full scale. 32 bits and floating point have none that all programs agree on: taken is the
    smallest usual one that holds the picture's values (1, 255, 65535), else, or where some are negative, their own
    range.
    """
    if image.mode.startswith("I;16"):
        return 0.0, 65280.0  # white in 8 bits, times 256
    if image.mode not in ("I", "F"):
        return None
    bits = getattr(image, "tag_v2", {}).get(258, (32,))
    if image.mode == "I" and (image.format != "TIFF" or bits[0] == 16):
        return 0.0, 65280.0
    values = np.asarray(image)
    values = values[np.isfinite(values)]
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 1.0)
    if low < 0 or high > 65535 or 1 < high <= 16:
        return min(low, 0.0), high
    return 0.0, next(top for top in (1.0, 255.0, 65535.0) if high <= top)


def _from_lab(image: Image.Image) -> Image.Image:
    try:
        from PIL import ImageCms

        lab, rgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        converted = ImageCms.profileToProfile(image, lab, rgb, outputMode="RGB")
    except ImportError as error:  # a Pillow built without littlecms
        raise BrokenPicture("its colours are LAB, which cannot be converted here (save it as PNG)") from error
    assert converted is not None
    return converted

"""Open pictures as people have them: turned by EXIF, with alpha, animated, or broken."""

from __future__ import annotations

import importlib
import math
import os
import warnings
from functools import lru_cache
from pathlib import Path
from typing import IO

from PIL import Image, ImageOps

EXTENSIONS = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif", ".jxl", ".heic"}
MAX_PIXELS = 500_000_000
"""More than this is refused as a decompression bomb."""
BACKGROUND = (255, 255, 255)
"""What shows through where a picture is transparent."""
# ending: the package that teaches Pillow to read it, the module, its function to call (if not import alone)
READERS = {
    ".heic": ("pillow-heif", "pillow_heif", "register_heif_opener"),
    ".avif": ("pillow-avif-plugin", "pillow_avif", ""),
    ".jxl": ("pillow-jxl-plugin", "pillow_jxl", ""),
}


class BrokenPicture(Exception):
    """A file that cannot be read as a picture; the message says why, in plain words."""


class NoReader(BrokenPicture):
    """Nothing that is installed reads pictures of this kind."""


def picture_size(path: Path) -> tuple[int, int]:
    """Width and height as displayed (EXIF orientation applied), from the file's header alone.

    Raises BrokenPicture.
    """
    with _open(path) as image:
        width, height = image.size
        try:
            turned = _orientation(image) in (5, 6, 7, 8)
        except Exception:  # damaged EXIF; whether the picture itself is damaged shows when it is loaded
            turned = False
    return (height, width) if turned else (width, height)


def _orientation(image: Image.Image) -> int:
    """EXIF (or XMP) orientation 1 to 8, as `exif_transpose` finds it once the picture is loaded.

    Pillow's getexif decodes a whole PNG, which is needed only where something follows the pixels.
    """
    whole = image.format != "PNG" or _told_at_the_end(image)
    exif = image.getexif() if whole else Image.Image.getexif(image)
    return int(exif.get(0x0112, 1))


def _told_at_the_end(image: Image.Image) -> bool:
    """Whether a PNG has EXIF or text behind its pixels."""
    file: IO[bytes] = image.fp  # type: ignore[attr-defined, unused-ignore]
    place, pixels, told = file.tell(), False, False
    file.seek(8)
    while len(head := file.read(8)) == 8:
        pixels |= head[4:] == b"IDAT"
        told |= pixels and head[4:] in (b"eXIf", b"iTXt", b"tEXt", b"zTXt")
        file.seek(int.from_bytes(head[:4], "big") + 4, os.SEEK_CUR)
    file.seek(place)
    return told


def load_picture(path: Path, at_least: int | None = None, background: tuple[int, int, int] = BACKGROUND) -> Image.Image:
    """The whole picture as RGB: first frame, EXIF orientation applied, alpha on `background`.

    With `at_least`, a JPEG may come at 1/2, 1/4 or 1/8 of its size (quicker to decode), its longest
    side still that many pixels or more. Raises BrokenPicture.
    """
    try:
        with _open(path) as image:
            if at_least and at_least < max(image.size):
                ratio = at_least / max(image.size)
                image.draft("", (math.ceil(image.width * ratio), math.ceil(image.height * ratio)))
            image.load()
            return _as_rgb(ImageOps.exif_transpose(image), background)
    except BrokenPicture:
        raise
    except Exception as error:  # Pillow raises nearly anything on damaged data
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
    except Exception as error:  # as above
        raise BrokenPicture(f"the file is damaged ({error})") from error


@lru_cache
def _register_readers() -> None:
    """Let Pillow read what installed packages teach it."""
    for _, module, function in READERS.values():
        try:
            reader = importlib.import_module(module)
            if function:
                getattr(reader, function)()
        except Exception:  # absent or unfit for this Pillow: pictures of the kind are reported
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
        raise BrokenPicture("the picture is far too large to be opened safely") from error
    except Image.UnidentifiedImageError as error:
        suffix = path.suffix.lower()
        if suffix in READERS and suffix not in Image.registered_extensions():
            package = READERS[suffix][0]
            raise NoReader(f"no reader for {suffix} files is installed (pip install {package})") from error
        raise BrokenPicture(f"this is not a picture, whatever its name ends in ({path.suffix})") from error
    except Exception as error:
        raise BrokenPicture(f"the file cannot be read ({error})") from error
    if image.width * image.height > MAX_PIXELS:
        image.close()
        raise BrokenPicture("the picture is far too large to be opened safely")
    return image


def _alpha(image: Image.Image) -> bool:
    # PNGs without an alpha channel may name one colour that is transparent
    named = image.mode in ("P", "RGB", "L", "1") and "transparency" in image.info
    return image.mode in ("RGBA", "LA", "PA") or named


def _as_rgb(image: Image.Image, background: tuple[int, int, int]) -> Image.Image:
    if _alpha(image):
        image = image.convert("RGBA")
        canvas = Image.new("RGBA", image.size, (*background, 255))
        return Image.alpha_composite(canvas, image).convert("RGB")
    if image.mode.startswith("I;16") or image.mode == "I":
        # convert("RGB") would clip 16-bit values at 255
        return image.point(lambda value: value / 256).convert("L").convert("RGB")
    return image.convert("RGB")

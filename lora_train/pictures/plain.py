"""Pictures that show nothing: of one colour all over, or transparent all over."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from lora_train.pictures.left_out import SHOWN
from lora_train.pictures.opening import BrokenPicture, has_alpha, load_picture

TOLERANCE = 3
"""How far apart the values (0 to 255) of one colour may be: what JPEG compression makes of it."""
SMALL, PACKED, UNPACKED = 100_000, 10, 2.9
"""A file larger than SMALL bytes plus one for every PACKED pixels shows something, unless it is not compressed: then it
has UNPACKED bytes per pixel or more, or is of a kind that seldom is compressed."""
SELDOM_PACKED = {".bmp", ".tif", ".tiff"}
MOST = 64_000_000
"""Pixels; larger pictures are not worth the time."""


def is_plain(picture: Image.Image) -> bool:
    """Whether a picture (RGB) is of one colour all over."""
    return all(high - low <= TOLERANCE for low, high in picture.getextrema())  # type: ignore[misc, str-unpack]


def shows_nothing(path: Path, size: tuple[int, int]) -> bool:
    """Whether a file of this size in pixels is of one colour, as it is trained on: transparent pixels are white.

    Most files are too large for that and are not decoded. Damaged ones are reported elsewhere.
    """
    try:
        return _may_be(path, size[0] * size[1]) and is_plain(load_picture(path, 64))
    except (BrokenPicture, OSError):
        return False


def plain_note(names: list[str], of: int) -> str:
    """The note about such pictures."""
    more = ", ..." if len(names) > SHOWN else ""
    return (
        f"{len(names)} of {of} pictures {'is' if len(names) == 1 else 'are'} of one colour or transparent all over "
        f"({', '.join(names[:SHOWN])}{more}): nothing can be learned from {'it' if len(names) == 1 else 'them'}; "
        "remove such pictures."
    )


def _may_be(path: Path, pixels: int) -> bool:
    size = path.stat().st_size
    packed = size <= SMALL + pixels / PACKED
    unpacked = size >= UNPACKED * pixels or path.suffix.lower() in SELDOM_PACKED
    return pixels <= MOST and (packed or unpacked or has_alpha(path))

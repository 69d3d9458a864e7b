"""A square, with borders in the background colour."""

from __future__ import annotations

from PIL import Image

from lora_train.prepare.base import View
from lora_train.prepare.tools import Tools


def apply(view: View, tools: Tools) -> None:
    """Pad the shorter side; the picture is in the middle, the mask is black in the borders."""
    view.picture = _padded(view.picture, tools.plan.background)
    if view.mask is not None:
        view.mask = _padded(view.mask, 0)


def _padded(picture: Image.Image, colour: tuple[int, int, int] | int) -> Image.Image:
    side = max(picture.size)
    if picture.size == (side, side):
        return picture
    canvas = Image.new(picture.mode, (side, side), colour)
    canvas.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
    return canvas

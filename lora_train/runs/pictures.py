"""Pictures about a run: the loss plot and contact sheets, drawn with Pillow alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

_INK, _PALE, _GRID, _PAPER = (30, 60, 140), (190, 205, 235), (225, 225, 225), (255, 255, 255)
_TEXT = (50, 50, 50)


def contact_sheet(rows: Sequence[tuple[str, Sequence[Image.Image]]], columns: Sequence[str]) -> Image.Image:
    """A grid of pictures of one size: a label before each row, one above each column."""
    width, height = rows[0][1][0].size
    font = _font(14)
    side = 20 + max(int(font.getlength(label)) for label, _ in rows)
    top, gap = 30, 4
    sheet = Image.new("RGB", (side + len(columns) * (width + gap), top + len(rows) * (height + gap)), _PAPER)
    draw = ImageDraw.Draw(sheet)
    for column, label in enumerate(columns):
        at = side + column * (width + gap) + width / 2
        draw.text((at, top / 2), label, _TEXT, font=font, anchor="mm")
    for row, (label, pictures) in enumerate(rows):
        y = top + row * (height + gap)
        draw.text((10, y + height / 2), label, _TEXT, font=font, anchor="lm")
        for column, picture in enumerate(pictures):
            sheet.paste(picture, (side + column * (width + gap), y))
    return sheet


def loss_plot(steps: Sequence[int], losses: Sequence[float], smoothed: Sequence[float]) -> Image.Image:
    """The loss over the steps: each step in a pale colour, the smoothed curve on top."""
    width, height, left, bottom, top = 900, 420, 70, 50, 30
    plot = Image.new("RGB", (width, height), _PAPER)
    draw = ImageDraw.Draw(plot)
    high = max(smoothed, default=1.0) * 1.6 or 1.0
    last = max(steps, default=1)

    def place(step: float, loss: float) -> tuple[float, float]:
        x = left + (width - left - 20) * step / last
        return x, height - bottom - (height - bottom - top) * min(loss, high) / high

    font = _font(14)
    for tick in range(5):
        x, y = place(last * tick / 4, high * tick / 4)
        draw.line((left, y, width - 20, y), _GRID)
        draw.text((left - 8, y), f"{high * tick / 4:.3g}", _TEXT, font=font, anchor="rm")
        draw.text((x, height - bottom + 14), f"{round(last * tick / 4)}", _TEXT, font=font, anchor="mm")
    draw.text((width / 2, height - 14), "step", _TEXT, font=font, anchor="mm")
    draw.text((left, 14), "loss", _TEXT, font=font, anchor="lm")
    for values, colour, thickness in ((losses, _PALE, 1), (smoothed, _INK, 3)):
        points = [place(step, value) for step, value in zip(steps, values)]
        if len(points) > 1:
            draw.line(points, colour, thickness)
    return plot


def png_bytes(picture: Image.Image) -> bytes:
    """A picture as the bytes of a PNG file."""
    from io import BytesIO

    buffer = BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def save_picture(picture: Image.Image, path: Path) -> None:
    """Write a picture, atomically, as PNG. Raises LoraTrainError."""
    from lora_train.atomic import write_bytes

    write_bytes(path, png_bytes(picture))


def _font(size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    """Pillow's own font; before 10.1 it has only one size, and no anchors."""
    for name in ("DejaVuSans.ttf", "Arial.ttf", "arial.ttf", "Helvetica.ttc"):
        try:
            return ImageFont.truetype(name, size)
        except OSError:
            continue
    return ImageFont.load_default(size)

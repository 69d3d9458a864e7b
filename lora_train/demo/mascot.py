"""The demo's mascot: a cat face, half orange and half cyan, with large eyes.

The base model has never seen it. Its parts are large on purpose: the VAE has one latent
per 8 x 8 pixels, and a LoRA cannot learn anything smaller.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from PIL import Image, ImageDraw

from lora_train.demo.scenes import COLOURS, SIZE

TAG = "sks"

_SCALE = 4

BACKGROUNDS = ("blue", "green", "purple", "yellow", "white", "gray", "pink", "black")
"""Backgrounds of the shipped pictures: those that both halves stand out from."""


@dataclass(frozen=True)
class MascotPicture:
    """Where the mascot is: centre and radius as fractions of the side, background by name."""

    x: float
    y: float
    radius: float
    background: str

    @property
    def caption(self) -> str:
        """The caption of the training picture."""
        return f"{TAG} on {self.background}"


def mascot_pictures(count: int = 16, seed: int = 7) -> list[MascotPicture]:
    """Descriptions of the shipped pictures: varied places, sizes and backgrounds."""
    rng = random.Random(seed)
    return [
        MascotPicture(
            x=rng.uniform(0.36, 0.64),
            y=rng.uniform(0.40, 0.62),
            radius=rng.uniform(0.22, 0.30),
            background=BACKGROUNDS[i % len(BACKGROUNDS)],
        )
        for i in range(count)
    ]


def draw_mascot(what: MascotPicture, size: int = SIZE) -> Image.Image:
    """Draw the mascot as an RGB picture of `size` x `size`."""
    side = size * _SCALE
    picture = Image.new("RGB", (side, side), COLOURS[what.background])
    paint_mascot(picture, what.x * side, what.y * side, what.radius * side)
    return picture.resize((size, size), Image.Resampling.LANCZOS)


def mascot_mask(radius: int) -> Image.Image:
    """The mascot's silhouette ("L") in its bounding square, `radius` in pixels."""
    big = radius * _SCALE
    mask = Image.new("L", (big * 3, big * 3), 0)
    _paint_outline(ImageDraw.Draw(mask), big * 1.5, big * 1.5, big, 255, 255)
    return mask.resize((radius * 3, radius * 3), Image.Resampling.LANCZOS)


def paint_mascot(picture: Image.Image, x: float, y: float, radius: float) -> None:
    """Paint the mascot into `picture`, centre of the face at (x, y), all in pixels."""
    draw = ImageDraw.Draw(picture)
    _paint_outline(draw, x, y, radius, COLOURS["orange"], COLOURS["cyan"])
    for sign in (-1, 1):
        cx, cy = x + sign * radius * 0.42, y - radius * 0.08
        _circle(draw, cx, cy, radius * 0.33, COLOURS["white"])
        _circle(draw, cx, cy, radius * 0.18, COLOURS["black"])
    mouth = (x - radius * 0.34, y + radius * 0.36, x + radius * 0.34, y + radius * 0.72)
    draw.pieslice(mouth, 0, 180, fill=COLOURS["red"])


def _paint_outline(
    draw: ImageDraw.ImageDraw,
    x: float,
    y: float,
    radius: float,
    left: int | tuple[int, int, int],
    right: int | tuple[int, int, int],
) -> None:
    """Ears and face, the left half in one colour and the right half in the other."""
    for sign, fill in ((-1, left), (1, right)):
        ear = [(0.92, -0.35), (0.80, -1.25), (0.15, -0.90)]
        draw.polygon([(x + sign * px * radius, y + py * radius) for px, py in ear], fill=fill)
    face = (x - radius, y - radius, x + radius, y + radius)
    draw.pieslice(face, 90, 270, fill=left)
    draw.pieslice(face, 270, 90, fill=right)


def _circle(draw: ImageDraw.ImageDraw, x: float, y: float, radius: float, fill: tuple[int, int, int]) -> None:
    draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=fill)

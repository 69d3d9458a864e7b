"""Drawings of another kind than the base's: a robot, a fish, a smiling sun, a landscape, in any colours.

Only for measurements, never for training: the VAE's round trip, and how well a LoRA learns something new.
"""

from __future__ import annotations

import math
import random

from PIL import Image, ImageDraw

from lora_train.demo.scenes import RGB, SIZE

_SCALE = 4
WHITE, DARK = (245, 245, 245), (20, 20, 20)


def _colour(rng: random.Random) -> RGB:
    return rng.randrange(20, 250), rng.randrange(20, 250), rng.randrange(20, 250)


def _paint_robot(draw: ImageDraw.ImageDraw, side: int, rng: random.Random) -> None:
    u, x, y = side * rng.uniform(0.07, 0.1), side * rng.uniform(0.42, 0.58), side * rng.uniform(0.42, 0.58)
    body, head, dark, eye = (_colour(rng) for _ in range(4))
    draw.rectangle((x - 2 * u, y, x + 2 * u, y + 3 * u), fill=body)
    draw.rectangle((x - 1.6 * u, y - 2.8 * u, x + 1.6 * u, y - 0.2 * u), fill=head)
    for sign in (-1, 1):
        at = x + sign * 0.8 * u
        draw.ellipse((at - 0.5 * u, y - 2 * u, at + 0.5 * u, y - u), fill=eye)
        at = x + sign * 2.5 * u
        draw.rectangle((at - 0.4 * u, y + 0.2 * u, at + 0.4 * u, y + 2.2 * u), fill=dark)
        at = x + sign * 1.1 * u
        draw.rectangle((at - 0.5 * u, y + 3 * u, at + 0.5 * u, y + 4.2 * u), fill=dark)
    draw.line((x, y - 2.8 * u, x, y - 3.8 * u), fill=dark, width=int(0.3 * u))
    draw.ellipse((x - 0.4 * u, y - 4.4 * u, x + 0.4 * u, y - 3.6 * u), fill=eye)
    draw.rectangle((x - u, y + 0.8 * u, x + u, y + 1.6 * u), fill=eye)


def _paint_fish(draw: ImageDraw.ImageDraw, side: int, rng: random.Random) -> None:
    r, x, y = side * rng.uniform(0.2, 0.28), side * rng.uniform(0.42, 0.55), side * rng.uniform(0.4, 0.6)
    body, fins, stripe = (_colour(rng) for _ in range(3))
    draw.polygon([(x + r * 0.8, y), (x + r * 1.6, y - r * 0.7), (x + r * 1.6, y + r * 0.7)], fill=fins)
    draw.polygon([(x - r * 0.2, y - r * 0.5), (x + r * 0.5, y - r * 1.1), (x + r * 0.5, y - r * 0.3)], fill=fins)
    draw.ellipse((x - r * 1.1, y - r * 0.7, x + r * 1.1, y + r * 0.7), fill=body)
    draw.pieslice((x - r * 0.5, y - r * 0.6, x + r * 0.3, y + r * 0.6), -90, 90, fill=stripe)
    draw.ellipse((x - r * 0.8, y - r * 0.35, x - r * 0.4, y + 0.05 * r), fill=WHITE)
    draw.ellipse((x - r * 0.7, y - r * 0.25, x - r * 0.5, y - 0.05 * r), fill=DARK)


def _paint_sun(draw: ImageDraw.ImageDraw, side: int, rng: random.Random) -> None:
    r, x, y = side * rng.uniform(0.17, 0.22), side * rng.uniform(0.45, 0.55), side * rng.uniform(0.45, 0.55)
    face, lines = _colour(rng), _colour(rng)
    for ray in range(8):
        turn = ray * math.pi / 4
        corners = ((turn - 0.2, 1.1), (turn, 1.75), (turn + 0.2, 1.1))
        draw.polygon([(x + math.cos(t) * r * far, y + math.sin(t) * r * far) for t, far in corners], fill=face)
    draw.ellipse((x - r, y - r, x + r, y + r), fill=face)
    for sign in (-1, 1):
        at = x + sign * 0.4 * r
        draw.ellipse((at - 0.14 * r, y - 0.4 * r, at + 0.14 * r, y - 0.05 * r), fill=lines)
    mouth = (x - 0.55 * r, y - 0.4 * r, x + 0.55 * r, y + 0.6 * r)
    draw.arc(mouth, 20, 160, fill=lines, width=int(0.14 * r))


def _paint_landscape(draw: ImageDraw.ImageDraw, side: int, rng: random.Random) -> None:
    s = float(side)
    draw.rectangle((0, s * 0.65, s, s), fill=_colour(rng))
    draw.polygon([(s * 0.05, s * 0.65), (s * 0.35, s * 0.25), (s * 0.6, s * 0.65)], fill=_colour(rng))
    draw.ellipse((s * 0.7, s * 0.08, s * 0.9, s * 0.28), fill=_colour(rng))
    draw.rectangle((s * 0.62, s * 0.45, s * 0.88, s * 0.75), fill=_colour(rng))
    draw.polygon([(s * 0.58, s * 0.45), (s * 0.75, s * 0.32), (s * 0.92, s * 0.45)], fill=_colour(rng))
    draw.rectangle((s * 0.7, s * 0.58, s * 0.8, s * 0.75), fill=_colour(rng))


KINDS = (_paint_robot, _paint_fish, _paint_sun, _paint_landscape)


def unseen_drawings(count: int, seed: int = 123, size: int = SIZE) -> list[Image.Image]:
    """`count` drawings, the four kinds in turn."""
    rng, pictures = random.Random(seed), []
    for index in range(count):
        side = size * _SCALE
        picture = Image.new("RGB", (side, side), _colour(rng))
        KINDS[index % len(KINDS)](ImageDraw.Draw(picture), side, rng)
        pictures.append(picture.resize((size, size), Image.Resampling.LANCZOS))
    return pictures

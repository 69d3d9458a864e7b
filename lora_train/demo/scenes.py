"""Procedurally drawn pictures with captions, on which the demo's base model is trained.

A scene is one object (shape, colour, size, place, perhaps a pattern or a pair of eyes) on a plain
background. Everything is drawn with Pillow at twice the size and then reduced, so that edges are smooth.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

from PIL import Image, ImageDraw

SIZE = 128
"""Side of a scene in pixels."""

_SCALE = 2  # drawn larger and reduced: Pillow does not smooth edges itself

RGB = tuple[int, int, int]

COLOURS: dict[str, RGB] = {
    "red": (220, 40, 40),
    "orange": (245, 140, 30),
    "yellow": (250, 225, 60),
    "green": (40, 165, 70),
    "cyan": (70, 205, 220),
    "blue": (40, 80, 210),
    "purple": (130, 60, 180),
    "pink": (245, 150, 190),
    "brown": (125, 80, 45),
    "white": (245, 245, 245),
    "gray": (140, 140, 140),
    "black": (25, 25, 25),
}

SHAPES = (
    "circle",
    "square",
    "triangle",
    "star",
    "heart",
    "diamond",
    "cross",
    "ring",
    "moon",
    "hexagon",
    "flower",
    "arrow",
)

PLACES: dict[str, tuple[float, float]] = {
    "in the middle": (0.5, 0.5),
    "on the left": (0.33, 0.5),
    "on the right": (0.67, 0.5),
    "at the top": (0.5, 0.33),
    "at the bottom": (0.5, 0.67),
}

RADII = {"small": 0.20, "large": 0.32}
"""Radius of the object as a fraction of the picture's side."""


@dataclass(frozen=True)
class Scene:
    """One picture in words; `pattern` is "", "striped" or "dotted" and needs a `second` colour."""

    shape: str
    colour: str
    background: str
    size: str
    place: str
    pattern: str = ""
    second: str = ""
    eyes: bool = False


def random_scene(rng: random.Random) -> Scene:
    """Draw a scene's description from `rng`; all its colours differ from each other."""
    colour, background, second = rng.sample(sorted(COLOURS), 3)
    pattern = rng.choices(("", "striped", "dotted", "halved"), (5, 2, 2, 2))[0]
    return Scene(
        shape=rng.choice(SHAPES),
        colour=colour,
        background=background,
        size=rng.choice(tuple(RADII)),
        place=rng.choice(tuple(PLACES)),
        pattern=pattern,
        second=second if pattern else "",
        eyes=rng.random() < 0.25,
    )


def short_caption(scene: Scene) -> str:
    """The shortest true caption: "red star on blue"."""
    return f"{scene.colour} {scene.shape} on {scene.background}"


def caption(scene: Scene, rng: random.Random) -> str:
    """A true caption of random length; short ones teach short prompts."""
    if rng.random() < 0.35:
        return short_caption(scene)
    words = [scene.colour, scene.shape]
    if rng.random() < 0.6:
        words.insert(0, scene.size)
    text = " ".join(words)
    if scene.pattern:
        if scene.pattern == "halved":
            text = text.replace(scene.colour, f"{scene.colour} and {scene.second}", 1)
        else:
            text += f" with {scene.second} {'stripes' if scene.pattern == 'striped' else 'dots'}"
    if scene.eyes:
        text += " and eyes" if " with " in text else " with eyes"
    if rng.random() < 0.6:
        text += f" {scene.place}"
    return text + rng.choice((" on {}", ", {} background", " on a {} background")).format(scene.background)


def draw_scene(scene: Scene, rng: random.Random, size: int = SIZE) -> Image.Image:
    """Draw `scene` as an RGB picture of `size` x `size`; `rng` moves and rotates it a little."""
    side = size * _SCALE
    radius = RADII[scene.size] * side * rng.uniform(0.9, 1.1)
    x, y = (p * side + rng.uniform(-0.03, 0.03) * side for p in PLACES[scene.place])
    angle = rng.uniform(-0.25, 0.25)
    picture = Image.new("RGB", (side, side), COLOURS[scene.background])
    mask = shape_mask(scene.shape, side, x, y, radius, angle)
    picture.paste(_filling(scene, side, x, radius), mask=mask)
    if scene.eyes:
        _draw_eyes(ImageDraw.Draw(picture), x, y, radius)
    return picture.resize((size, size), Image.Resampling.LANCZOS)


def shape_mask(shape: str, side: int, x: float, y: float, radius: float, angle: float) -> Image.Image:
    """A mask ("L", `side` x `side`) of `shape` centred on (x, y), in pixels; `angle` in radians."""
    mask = Image.new("L", (side, side), 0)
    draw = ImageDraw.Draw(mask)
    if shape in ("circle", "ring", "moon"):
        draw.ellipse(_box(x, y, radius), fill=255)
        if shape == "ring":
            draw.ellipse(_box(x, y, radius * 0.5), fill=0)
        elif shape == "moon":
            draw.ellipse(_box(x + radius * 0.55, y - radius * 0.2, radius * 0.85), fill=0)
    elif shape == "flower":
        for petal in range(6):
            turn = angle + petal * math.pi / 3
            cx, cy = x + math.cos(turn) * radius * 0.6, y + math.sin(turn) * radius * 0.6
            draw.ellipse(_box(cx, cy, radius * 0.4), fill=255)
        draw.ellipse(_box(x, y, radius * 0.45), fill=255)
    else:
        points = [_turned(px, py, angle) for px, py in _outline(shape)]
        draw.polygon([(x + px * radius, y + py * radius) for px, py in points], fill=255)
    return mask


def _outline(shape: str) -> list[tuple[float, float]]:
    """Corners of a polygon in units of the radius, around (0, 0)."""
    if shape == "square":
        return [(-0.8, -0.8), (0.8, -0.8), (0.8, 0.8), (-0.8, 0.8)]
    if shape == "diamond":
        return [(0, -1), (0.75, 0), (0, 1), (-0.75, 0)]
    if shape == "cross":
        a, b = 0.33, 0.95
        quarter = [(-a, -b), (a, -b), (a, -a)]
        return [point for turn in range(4) for point in (_quarter_turns(x, y, turn) for x, y in quarter)]
    if shape == "arrow":
        return [(0, -1), (0.85, 0), (0.35, 0), (0.35, 0.95), (-0.35, 0.95), (-0.35, 0), (-0.85, 0)]
    if shape == "heart":
        return [_heart(i / 40 * 2 * math.pi) for i in range(40)]
    if shape == "star":
        return [_polar(0.42 if i % 2 else 1.0, i * math.pi / 5) for i in range(10)]
    corners = {"triangle": 3, "hexagon": 6}[shape]
    return [_polar(1.0, i * 2 * math.pi / corners) for i in range(corners)]


def _quarter_turns(x: float, y: float, count: int) -> tuple[float, float]:
    for _ in range(count):
        x, y = -y, x
    return x, y


def _polar(radius: float, turn: float) -> tuple[float, float]:
    return radius * math.sin(turn), -radius * math.cos(turn)


def _heart(t: float) -> tuple[float, float]:
    """The usual heart curve, scaled into the unit circle."""
    x = 16 * math.sin(t) ** 3
    y = 13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)
    return x / 17, -y / 17


def _turned(x: float, y: float, angle: float) -> tuple[float, float]:
    cos, sin = math.cos(angle), math.sin(angle)
    return x * cos - y * sin, x * sin + y * cos


def _box(x: float, y: float, radius: float) -> tuple[float, float, float, float]:
    return x - radius, y - radius, x + radius, y + radius


def _filling(scene: Scene, side: int, x: float, radius: float) -> Image.Image:
    """A full picture of the object's colours, to be pasted through its mask."""
    filling = Image.new("RGB", (side, side), COLOURS[scene.colour])
    if not scene.pattern:
        return filling
    draw, second = ImageDraw.Draw(filling), COLOURS[scene.second]
    if scene.pattern == "halved":
        draw.rectangle((x, 0, side, side), fill=second)
        return filling
    step = side // 8
    for at in range(0, side, step):
        if scene.pattern == "striped":
            draw.rectangle((0, at, side, at + step * 0.4), fill=second)
        else:
            for across in range(0, side, step):
                draw.ellipse(_box(across + step / 2, at + step / 2, step * 0.3), fill=second)
    return filling


def _draw_eyes(draw: ImageDraw.ImageDraw, x: float, y: float, radius: float) -> None:
    for sign in (-1, 1):
        cx, cy = x + sign * radius * 0.38, y - radius * 0.1
        draw.ellipse(_box(cx, cy, radius * 0.28), fill=COLOURS["white"])
        draw.ellipse(_box(cx, cy, radius * 0.15), fill=COLOURS["black"])


def draw_collage(rng: random.Random, size: int = SIZE) -> Image.Image:
    """A picture of overlapping shapes, lines, arcs and dots in any colour, without a caption.

    The VAE is also trained on these: it cannot draw what it has never seen, and a LoRA cannot
    be better than the VAE's reconstruction.
    """
    side = size * _SCALE

    def colour() -> RGB:
        if rng.random() < 0.5:
            return COLOURS[rng.choice(tuple(COLOURS))]
        return rng.randrange(256), rng.randrange(256), rng.randrange(256)

    def point() -> tuple[float, float]:
        return rng.uniform(0, side), rng.uniform(0, side)

    picture = Image.new("RGB", (side, side), colour())
    draw = ImageDraw.Draw(picture)
    for _ in range(rng.randrange(2, 12)):
        (x, y), radius = point(), side * rng.uniform(0.04, 0.4) ** 1.3
        kind = rng.randrange(6)
        if kind == 0:
            draw.line((*point(), *point()), fill=colour(), width=rng.randrange(3, 16))
        elif kind == 1:
            start = rng.uniform(0, 360)
            draw.arc(_box(x, y, radius), start, start + rng.uniform(60, 300), colour(), rng.randrange(3, 14))
        elif kind == 2:
            draw.pieslice(_box(x, y, radius), 90, 270, fill=colour())
            draw.pieslice(_box(x, y, radius), -90, 90, fill=colour())
        elif kind == 3:
            draw.ellipse(_box(x, y, radius * 0.6), fill=COLOURS["white"])
            draw.ellipse(_box(x, y, radius * 0.3), fill=COLOURS["black"])
        else:
            mask = shape_mask(rng.choice(SHAPES), side, x, y, radius, rng.uniform(0, 6.3))
            picture.paste(colour(), (0, 0, side, side), mask)
    return picture.resize((size, size), Image.Resampling.LANCZOS)

"""Things made of parts, with captions: houses, cars, faces, creatures ... for the demo's base model.

Plain shapes alone teach a base no parts: eyes, wheels, windows, limbs. Every part is at least 8 pixels wide
at 128 px, because the VAE has one latent per 8 x 8 pixels. On purpose there is no cat, robot,
fish, sun or other concept that LoRAs are tested with.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from PIL import Image, ImageDraw

from lora_train.demo.scenes import COLOURS, RGB, SIZE

SCALE = 2
"""Drawn larger and reduced: Pillow does not smooth edges itself."""


@dataclass
class Pen:
    """Draws in units of the thing's radius around its centre; x may be mirrored."""

    draw: ImageDraw.ImageDraw
    x: float
    y: float
    radius: float
    mirrored: bool = False

    def _at(self, x: float, y: float) -> tuple[float, float]:
        return self.x + (-x if self.mirrored else x) * self.radius, self.y + y * self.radius

    def _box(self, x0: float, y0: float, x1: float, y1: float) -> tuple[float, float, float, float]:
        (ax, ay), (bx, by) = self._at(x0, y0), self._at(x1, y1)
        return min(ax, bx), min(ay, by), max(ax, bx), max(ay, by)

    def oval(self, x: float, y: float, rx: float, ry: float, fill: RGB) -> None:
        """An ellipse around (x, y)."""
        self.draw.ellipse(self._box(x - rx, y - ry, x + rx, y + ry), fill=fill)

    def box(self, x0: float, y0: float, x1: float, y1: float, fill: RGB, round_: float = 0.0) -> None:
        """A rectangle, its corners rounded by `round_` radii."""
        self.draw.rounded_rectangle(self._box(x0, y0, x1, y1), round_ * self.radius, fill=fill)

    def polygon(self, points: list[tuple[float, float]], fill: RGB) -> None:
        """A filled polygon."""
        self.draw.polygon([self._at(x, y) for x, y in points], fill=fill)

    def line(self, points: list[tuple[float, float]], width: float, fill: RGB) -> None:
        """A line of `width` radii."""
        at = [self._at(x, y) for x, y in points]
        self.draw.line(at, fill=fill, width=max(1, round(width * self.radius)), joint="curve")

    def half(self, x: float, y: float, rx: float, ry: float, upper: bool, fill: RGB) -> None:
        """The upper or lower half of an ellipse."""
        start = 180 if upper else 0
        self.draw.pieslice(self._box(x - rx, y - ry, x + rx, y + ry), start, start + 180, fill=fill)

    def pair(self, part: Callable[[float], None]) -> None:
        """A part on each side: `part` is called with -1 and 1."""
        part(-1.0)
        part(1.0)

    def eyes(self, x: float, y: float, size: float, pupil: RGB = COLOURS["black"], white: bool = True) -> None:
        """Two eyes at (-x, y) and (x, y)."""
        for sign in (-1, 1):
            if white:
                self.oval(sign * x, y, size, size, COLOURS["white"])
            self.oval(sign * x, y, size * (0.55 if white else 0.8), size * (0.55 if white else 0.8), pupil)


Colours3 = tuple[RGB, RGB, RGB]


def _house(p: Pen, c: Colours3, _rng: random.Random) -> None:
    p.box(-0.75, -0.15, 0.75, 0.95, c[0])
    p.polygon([(-1, -0.15), (0, -1), (1, -0.15)], c[1])
    p.box(-0.2, 0.35, 0.25, 0.95, c[2])
    p.box(0.38, 0.1, 0.65, 0.4, c[2])


def _car(p: Pen, c: Colours3, _rng: random.Random) -> None:
    p.box(-1, -0.05, 1, 0.5, c[0], 0.12)
    p.polygon([(-0.6, 0), (-0.4, -0.55), (0.35, -0.55), (0.65, 0)], c[0])
    p.polygon([(-0.42, -0.05), (-0.3, -0.42), (0.25, -0.42), (0.45, -0.05)], c[2])
    p.pair(lambda s: p.oval(s * 0.55, 0.5, 0.28, 0.28, c[1]))


def _tree(p: Pen, c: Colours3, rng: random.Random) -> None:
    p.box(-0.18, 0.1, 0.18, 1, c[1])
    if rng.random() < 0.5:
        p.oval(0, -0.3, 0.75, 0.65, c[0])
    else:
        p.polygon([(0, -1), (0.75, 0.35), (-0.75, 0.35)], c[0])


def _boat(p: Pen, c: Colours3, _rng: random.Random) -> None:
    p.polygon([(-1, 0.3), (1, 0.3), (0.6, 0.85), (-0.6, 0.85)], c[0])
    p.box(-0.08, -0.9, 0.08, 0.3, c[2])
    p.polygon([(0.12, -0.9), (0.85, 0.15), (0.12, 0.15)], c[1])


def _snowman(p: Pen, c: Colours3, _rng: random.Random) -> None:
    p.oval(0, 0.5, 0.55, 0.5, c[0])
    p.oval(0, -0.3, 0.4, 0.4, c[0])
    p.box(-0.3, -1, 0.3, -0.6, c[1])
    p.eyes(0.16, -0.32, 0.11, c[2], white=False)


def _face(p: Pen, c: Colours3, _rng: random.Random) -> None:
    p.oval(0, 0, 0.95, 0.95, c[0])
    p.eyes(0.36, -0.2, 0.24)
    p.half(0, 0.2, 0.5, 0.45, False, c[1])


def _mushroom(p: Pen, c: Colours3, _rng: random.Random) -> None:
    p.box(-0.3, -0.1, 0.3, 0.95, c[1], 0.15)
    p.half(0, 0.1, 0.95, 1.0, True, c[0])
    for x, y in ((-0.5, -0.2), (0.1, -0.5), (0.5, -0.15)):
        p.oval(x, y, 0.16, 0.16, c[2])


def _ice_cream(p: Pen, c: Colours3, _rng: random.Random) -> None:
    p.polygon([(-0.5, 0), (0.5, 0), (0, 1)], c[1])
    p.oval(0, -0.35, 0.6, 0.55, c[0])


def _balloon(p: Pen, c: Colours3, _rng: random.Random) -> None:
    p.line([(0, 0.4), (0.1, 0.7), (-0.05, 1)], 0.1, c[1])
    p.oval(0, -0.3, 0.6, 0.7, c[0])


def _cup(p: Pen, c: Colours3, _rng: random.Random) -> None:
    p.oval(0.6, 0, 0.4, 0.4, c[1])
    p.oval(0.6, 0, 0.2, 0.2, c[2])
    p.box(-0.75, -0.6, 0.55, 0.7, c[0], 0.15)


def _lamp(p: Pen, c: Colours3, _rng: random.Random) -> None:
    p.box(-0.1, 0, 0.1, 0.9, c[1])
    p.box(-0.5, 0.75, 0.5, 0.95, c[1])
    p.polygon([(-0.35, -0.9), (0.35, -0.9), (0.75, 0), (-0.75, 0)], c[0])


def _umbrella(p: Pen, c: Colours3, _rng: random.Random) -> None:
    p.box(-0.08, -0.2, 0.08, 0.95, c[1])
    p.half(0, 0, 0.95, 0.9, True, c[0])


def _butterfly(p: Pen, c: Colours3, _rng: random.Random) -> None:
    p.pair(lambda s: p.oval(s * 0.5, -0.4, 0.45, 0.48, c[0]))
    p.pair(lambda s: p.oval(s * 0.42, 0.45, 0.36, 0.38, c[1]))
    p.oval(0, 0, 0.15, 0.8, c[2])


def _beetle(p: Pen, c: Colours3, _rng: random.Random) -> None:
    p.oval(0, -0.55, 0.4, 0.38, c[1])
    p.oval(0, 0.15, 0.75, 0.75, c[0])
    p.box(-0.06, -0.55, 0.06, 0.88, c[1])
    for x, y in ((-0.38, 0), (0.38, 0), (-0.3, 0.48), (0.3, 0.48)):
        p.oval(x, y, 0.15, 0.15, c[1])


def _train(p: Pen, c: Colours3, _rng: random.Random) -> None:
    p.box(-0.9, -0.1, 0.9, 0.5, c[0])
    p.box(0.25, -0.75, 0.9, 0.5, c[0])
    p.box(0.4, -0.55, 0.75, -0.2, c[2])
    p.box(-0.7, -0.6, -0.4, -0.1, c[1])
    for x in (-0.6, 0.0, 0.6):
        p.oval(x, 0.55, 0.24, 0.24, c[1])


def _cake(p: Pen, c: Colours3, _rng: random.Random) -> None:
    p.box(-0.85, 0.1, 0.85, 0.85, c[0], 0.08)
    p.box(-0.85, 0.1, 0.85, 0.35, c[1], 0.08)
    p.box(-0.09, -0.4, 0.09, 0.1, c[2])
    p.oval(0, -0.55, 0.13, 0.18, COLOURS["yellow"])


def _apple(p: Pen, c: Colours3, _rng: random.Random) -> None:
    p.box(-0.07, -0.95, 0.07, -0.5, c[2])
    p.oval(0.35, -0.75, 0.3, 0.15, c[1])
    p.pair(lambda s: p.oval(s * 0.3, 0.1, 0.55, 0.72, c[0]))


def _bell(p: Pen, c: Colours3, _rng: random.Random) -> None:
    p.oval(0, 0.7, 0.22, 0.22, c[1])
    p.half(0, 0, 0.55, 0.85, True, c[0])
    p.polygon([(-0.55, -0.02), (0.55, -0.02), (0.85, 0.6), (-0.85, 0.6)], c[0])


def _candle(p: Pen, c: Colours3, _rng: random.Random) -> None:
    p.box(-0.3, -0.3, 0.3, 0.8, c[0])
    p.oval(0, -0.62, 0.18, 0.3, c[1])
    p.box(-0.65, 0.75, 0.65, 0.98, c[2], 0.08)


def _tent(p: Pen, c: Colours3, _rng: random.Random) -> None:
    p.polygon([(0, -0.8), (1, 0.75), (-1, 0.75)], c[0])
    p.polygon([(0, -0.2), (0.35, 0.75), (-0.35, 0.75)], c[1])


def _ghost(p: Pen, c: Colours3, _rng: random.Random) -> None:
    p.half(0, -0.2, 0.7, 0.75, True, c[0])
    p.box(-0.7, -0.22, 0.7, 0.6, c[0])
    for x in (-0.47, 0.0, 0.47):
        p.oval(x, 0.6, 0.24, 0.3, c[0])
    p.eyes(0.28, -0.2, 0.17, c[1], white=False)


def _bus(p: Pen, c: Colours3, _rng: random.Random) -> None:
    p.box(-1, -0.6, 1, 0.5, c[0], 0.15)
    for x in (-0.78, -0.2, 0.38):
        p.box(x, -0.4, x + 0.4, 0.0, c[2])
    p.pair(lambda s: p.oval(s * 0.55, 0.5, 0.26, 0.26, c[1]))


def _bird(p: Pen, c: Colours3, _rng: random.Random) -> None:
    p.oval(0, 0.15, 0.75, 0.55, c[0])
    p.oval(-0.55, -0.4, 0.4, 0.38, c[0])
    p.polygon([(-0.88, -0.55), (-1.25, -0.35), (-0.88, -0.2)], c[2])
    p.oval(0.15, 0.1, 0.4, 0.26, c[1])
    p.oval(-0.6, -0.45, 0.13, 0.13, COLOURS["black"])


def _gift(p: Pen, c: Colours3, _rng: random.Random) -> None:
    p.box(-0.75, -0.4, 0.75, 0.85, c[0])
    p.box(-0.14, -0.4, 0.14, 0.85, c[1])
    p.pair(lambda s: p.polygon([(0, -0.4), (s * 0.5, -0.85), (s * 0.6, -0.45)], c[1]))


def _table(p: Pen, c: Colours3, _rng: random.Random) -> None:
    p.pair(lambda s: p.box(s * 0.65 - 0.12, -0.2, s * 0.65 + 0.12, 0.9, c[1]))
    p.box(-1, -0.4, 1, -0.05, c[0])


def _clock(p: Pen, c: Colours3, _rng: random.Random) -> None:
    p.oval(0, 0, 0.95, 0.95, c[0])
    p.oval(0, 0, 0.7, 0.7, c[1])
    p.line([(0, -0.5), (0, 0), (0.4, 0.15)], 0.14, c[2])


def _pot(p: Pen, c: Colours3, _rng: random.Random) -> None:
    p.box(-0.07, -0.4, 0.07, 0.3, COLOURS["green"])
    for turn in range(5):
        t = turn * 2 * math.pi / 5
        p.oval(0.3 * math.sin(t), -0.55 - 0.3 * math.cos(t), 0.24, 0.24, c[1])
    p.oval(0, -0.55, 0.2, 0.2, c[2])
    p.polygon([(-0.5, 0.25), (0.5, 0.25), (0.35, 0.95), (-0.35, 0.95)], c[0])


PARTS: dict[str, tuple[Callable[[Pen, Colours3, random.Random], None], tuple[str, str]]] = {
    "house": (_house, ("roof", "door")),
    "car": (_car, ("wheels", "window")),
    "tree": (_tree, ("trunk", "")),
    "boat": (_boat, ("sail", "mast")),
    "snowman": (_snowman, ("hat", "eyes")),
    "face": (_face, ("mouth", "")),
    "mushroom": (_mushroom, ("stem", "dots")),
    "ice cream": (_ice_cream, ("cone", "")),
    "balloon": (_balloon, ("string", "")),
    "cup": (_cup, ("handle", "")),
    "lamp": (_lamp, ("foot", "")),
    "umbrella": (_umbrella, ("stick", "")),
    "butterfly": (_butterfly, ("wings", "body")),
    "beetle": (_beetle, ("head", "")),
    "train": (_train, ("wheels", "window")),
    "cake": (_cake, ("top", "candle")),
    "apple": (_apple, ("leaf", "stem")),
    "bell": (_bell, ("ball", "")),
    "candle": (_candle, ("flame", "foot")),
    "tent": (_tent, ("door", "")),
    "ghost": (_ghost, ("eyes", "")),
    "bus": (_bus, ("wheels", "windows")),
    "bird": (_bird, ("wing", "beak")),
    "gift": (_gift, ("ribbon", "")),
    "table": (_table, ("legs", "")),
    "clock": (_clock, ("face", "hands")),
    "pot": (_pot, ("flower", "")),
}
"""Each thing's drawing function, and the parts that its second and third colour name ("": not named)."""


@dataclass(frozen=True)
class Creature:
    """An invented animal: a body, perhaps a head, and parts from short lists; `colours` by part."""

    body: str
    ears: str
    legs: int
    arms: bool
    tail: bool
    mouth: bool
    eyes: int
    belly: bool
    colours: dict[str, str] = field(default_factory=dict)


BODIES = ("round", "tall", "wide", "square", "pear")
EARS = ("", "", "round ears", "long ears", "horns", "antennas")


def random_creature(rng: random.Random, background: str) -> Creature:
    """Draw an animal's description from `rng`; no part has the background's colour."""
    names = [name for name in COLOURS if name != background]
    rng.shuffle(names)
    return Creature(
        body=rng.choice(BODIES),
        ears=rng.choice(EARS),
        legs=rng.choice((0, 2, 2, 4)),
        arms=rng.random() < 0.3,
        tail=rng.random() < 0.3,
        mouth=rng.random() < 0.6,
        eyes=rng.choice((1, 2, 2, 2, 2)),
        belly=rng.random() < 0.3,
        colours=dict(zip(("body", "ears", "limbs", "belly", "mouth"), names)),
    )


def draw_creature(p: Pen, what: Creature, palette: dict[str, RGB]) -> None:
    """Draw the animal; `palette` has the RGB of each of its parts."""
    width, height = {"round": (0.7, 0.7), "tall": (0.5, 0.8), "wide": (0.9, 0.55), "square": (0.65, 0.65)}.get(
        what.body, (0.65, 0.75)
    )
    limbs, ears = palette["limbs"], palette["ears"]
    for index in range(what.legs):
        x = (index - (what.legs - 1) / 2) * (1.2 * width / max(1, what.legs - 1))
        p.box(x - 0.12, height * 0.5, x + 0.12, height + 0.3, limbs, 0.06)
    if what.arms:
        p.pair(lambda s: p.line([(s * width * 0.8, 0), (s * (width + 0.3), -0.25)], 0.2, limbs))
    if what.tail:
        p.line([(width * 0.8, 0.3), (width + 0.35, 0.1), (width + 0.35, -0.2)], 0.18, limbs)
    if what.ears == "round ears":
        p.pair(lambda s: p.oval(s * width * 0.75, -height * 0.85, 0.26, 0.26, ears))
    elif what.ears == "long ears":
        p.pair(lambda s: p.oval(s * width * 0.4, -height - 0.2, 0.16, 0.42, ears))
    elif what.ears == "horns":
        for s in (-1, 1):
            x = s * width * 0.55
            p.polygon([(x - 0.16, -height * 0.7), (x + 0.16, -height * 0.7), (x + s * 0.2, -height - 0.3)], ears)
    elif what.ears == "antennas":
        for s in (-1, 1):
            p.line([(s * 0.15, -height * 0.8), (s * 0.3, -height - 0.25)], 0.12, ears)
            p.oval(s * 0.3, -height - 0.28, 0.14, 0.14, ears)
    if what.body == "square":
        p.box(-width, -height, width, height, palette["body"], 0.12)
    else:
        p.oval(0, 0, width, height, palette["body"])
    if what.body == "pear":
        p.oval(0, height * 0.45, width * 1.15, height * 0.55, palette["body"])
    if what.belly:
        p.oval(0, height * 0.45, width * 0.55, height * 0.42, palette["belly"])
    if what.eyes == 1:
        p.oval(0, -height * 0.3, 0.28, 0.28, COLOURS["white"])
        p.oval(0, -height * 0.3, 0.15, 0.15, COLOURS["black"])
    else:
        p.eyes(width * 0.42, -height * 0.3, 0.2)
    if what.mouth:
        p.half(0, height * 0.08, width * 0.38, height * 0.3, False, palette["mouth"])


def creature_caption(what: Creature, background: str, rng: random.Random) -> str:
    """A true caption, its parts named at random."""
    parts = []
    if what.ears:
        parts.append(f"{what.colours['ears']} {what.ears}")
    if what.legs or what.arms:
        parts.append(f"{what.colours['limbs']} {'legs' if what.legs else 'arms'}")
    if what.belly:
        parts.append(f"{what.colours['belly']} belly")
    if what.mouth:
        parts.append(f"{what.colours['mouth']} mouth")
    parts.append("eyes" if what.eyes > 1 else "one eye")
    rng.shuffle(parts)
    named = parts[: rng.randrange(0, len(parts) + 1)]
    text = f"{what.colours['body']} {what.body} animal" if rng.random() < 0.5 else f"{what.colours['body']} animal"
    return text + (" with " + " and ".join(named) if named else "") + f" on {background}"


def _canvas(rng: random.Random, background: RGB, size: int) -> tuple[Image.Image, Pen]:
    side = size * SCALE
    picture = Image.new("RGB", (side, side), background)
    radius = side * rng.uniform(0.24, 0.36)
    spread = max(0.0, 0.5 - 1.15 * radius / side)
    x, y = (side * (0.5 + rng.uniform(-spread, spread)) for _ in range(2))
    return picture, Pen(ImageDraw.Draw(picture), x, y, radius, rng.random() < 0.5)


def _reduced(picture: Image.Image, size: int) -> Image.Image:
    return picture.resize((size, size), Image.Resampling.LANCZOS)


def thing_scene(rng: random.Random, size: int = SIZE) -> tuple[Image.Image, str]:
    """One thing in named colours, and a true caption."""
    name = rng.choice(tuple(PARTS))
    paint, (second, third) = PARTS[name]
    background, *names = rng.sample(tuple(COLOURS), 4)
    picture, pen = _canvas(rng, COLOURS[background], size)
    paint(pen, (COLOURS[names[0]], COLOURS[names[1]], COLOURS[names[2]]), rng)
    named = [f"{colour} {part}" for colour, part in ((names[1], second), (names[2], third)) if part]
    rng.shuffle(named)
    named = named[: rng.randrange(0, len(named) + 1)]
    text = f"{names[0]} {name}" + (" with " + " and ".join(named) if named else "") + f" on {background}"
    return _reduced(picture, size), text


def creature_scene(rng: random.Random, size: int = SIZE) -> tuple[Image.Image, str]:
    """One invented animal, and a true caption."""
    background = rng.choice(tuple(COLOURS))
    what = random_creature(rng, background)
    picture, pen = _canvas(rng, COLOURS[background], size)
    pen.radius *= 0.85
    draw_creature(pen, what, {part: COLOURS[name] for part, name in what.colours.items()})
    return _reduced(picture, size), creature_caption(what, background, rng)


def any_colour(rng: random.Random) -> RGB:
    """A colour of the palette or any other."""
    if rng.random() < 0.3:
        return COLOURS[rng.choice(tuple(COLOURS))]
    return rng.randrange(256), rng.randrange(256), rng.randrange(256)


def crowd(rng: random.Random, size: int = SIZE) -> Image.Image:
    """Things and animals in any colours, one to four of them, on a plain or two-coloured ground: for the VAE alone."""
    side = size * SCALE
    picture = Image.new("RGB", (side, side), any_colour(rng))
    draw = ImageDraw.Draw(picture)
    if rng.random() < 0.3:
        draw.rectangle((0, side * rng.uniform(0.3, 0.9), side, side), fill=any_colour(rng))
    count = rng.choice((1, 1, 1, 2, 3, 4))
    for _ in range(count):
        radius = side * rng.uniform(0.2, 0.4) / math.sqrt(count)
        pen = Pen(draw, rng.uniform(0.2, 0.8) * side, rng.uniform(0.2, 0.8) * side, radius, rng.random() < 0.5)
        if rng.random() < 0.5:
            colours = (any_colour(rng), any_colour(rng), any_colour(rng))
            PARTS[rng.choice(tuple(PARTS))][0](pen, colours, rng)
        else:
            what = random_creature(rng, "")
            draw_creature(pen, what, {part: any_colour(rng) for part in what.colours})
    return _reduced(picture, size)

"""How much of the mascot is in a picture, and which colours: the metrics of the demo."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from lora_train.demo.mascot import mascot_mask, paint_mascot
from lora_train.demo.scenes import COLOURS, SHAPES, shape_mask

SIDE = 64
"""Pictures are compared at this size: enough for the mascot's parts, and 16 times faster than at 128."""
RADII = tuple(range(12, 21))
"""Sizes of the template in pixels of the reduced picture."""
_MARGIN = 8
_DRAWN_LARGER = 4


def mascot_score(picture: Image.Image) -> float:
    """Best normalised correlation with the mascot over positions and sizes, about -0.2 to 1.

    The mean is taken per colour channel inside the mascot's outline, so that a blob of the right
    colours without ears, halves and eyes scores low. Training pictures have 0.9 and more.
    """
    x = _pixels(picture.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BOX))
    x = F.pad(x, (_MARGIN,) * 4, mode="replicate")
    return max(_best_match(x, radius) for radius in RADII)


def _best_match(x: torch.Tensor, radius: int) -> float:
    template, mask = _template(radius)
    count = mask.sum()
    across = F.conv2d(x, template)[:, 0]
    each = x.transpose(0, 1)  # channels as a batch: their sums under the mask
    sums, squares = F.conv2d(each, mask), F.conv2d(each**2, mask)
    energy = (squares - sums**2 / count).clamp(min=0).sum(dim=0)
    norm = (energy * (template**2).sum()).sqrt().clamp(min=1e-3 * count)
    return float((across / norm).max())


@lru_cache(maxsize=16)
def _template(radius: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The mascot (1, 3, k, k), zero outside its outline and of zero mean inside, and the outline (1, 1, k, k)."""
    side = radius * 3
    big = Image.new("RGB", (side * _DRAWN_LARGER,) * 2)
    paint_mascot(big, big.width / 2, big.height / 2, radius * _DRAWN_LARGER)
    drawn = _pixels(big.resize((side, side), Image.Resampling.LANCZOS))
    mask = torch.from_numpy(np.asarray(mascot_mask(radius), dtype=np.float32) / 255)[None, None]
    mean = (drawn * mask).sum(dim=(2, 3), keepdim=True) / mask.sum()
    return (drawn - mean) * mask, mask


def _pixels(picture: Image.Image) -> torch.Tensor:
    """(1, 3, H, W) in 0 to 1."""
    array = np.asarray(picture.convert("RGB"), dtype=np.float32) / 255
    return torch.from_numpy(array).permute(2, 0, 1)[None]


def colour_shares(picture: Image.Image) -> dict[str, float]:
    """For each of the scenes' colours, the share of pixels that are nearest to it in RGB."""
    array = np.asarray(picture.convert("RGB"), dtype=np.float32).reshape(-1, 1, 3)
    palette = np.array(list(COLOURS.values()), dtype=np.float32)
    nearest = ((array - palette) ** 2).sum(axis=2).argmin(axis=1)
    counts = np.bincount(nearest, minlength=len(COLOURS)) / len(array)
    return dict(zip(COLOURS, (float(count) for count in counts)))


SHAPE_RADII = tuple(range(10, 25, 2))
"""Sizes of a shape's template in pixels of the reduced picture."""
SHAPE_ANGLES = (-0.2, 0.0, 0.2)
_FULL_CONTRAST = 0.4


def shape_scores(picture: Image.Image) -> dict[str, float]:
    """For each shape the best normalised correlation of its outline, -1 to 1, with what stands out from the background.

    The background is the most frequent of the scenes' colours at the picture's border; each pixel's distance from
    that colour is correlated with the shape's mask over positions, sizes and small rotations.
    """
    x = _pixels(picture.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BOX))
    border = torch.cat([x[..., :3, :].flatten(2), x[..., -3:, :].flatten(2), x[..., :3].flatten(2)], dim=2)
    ground = border.median(dim=2).values[..., None, None]
    apart = ((x - ground).square().sum(dim=1, keepdim=True).sqrt() / _FULL_CONTRAST).clamp(max=1)
    scores = dict.fromkeys(SHAPES, -1.0)
    for radius in SHAPE_RADII:
        templates = _shape_templates(radius)
        side = templates.shape[-1]
        around = F.pad(apart, (side // 4,) * 4)
        count, box = side * side, torch.ones(1, 1, side, side)
        sums, squares = F.conv2d(around, box), F.conv2d(around**2, box)
        energy = (squares - sums**2 / count).clamp(min=1e-2 * count).sqrt()
        found = (F.conv2d(around, templates) / energy).flatten(2).max(dim=2).values[0]
        for index, value in enumerate(found.tolist()):
            shape = SHAPES[index // len(SHAPE_ANGLES)]
            scores[shape] = max(scores[shape], value)
    return scores


@lru_cache(maxsize=16)
def _shape_templates(radius: int) -> torch.Tensor:
    """All shapes at all angles (N, 1, k, k), of mean 0 and norm 1, shapes outermost."""
    side = round(radius * 2.5)
    big = side * _DRAWN_LARGER
    rows = []
    for shape in SHAPES:
        for angle in SHAPE_ANGLES:
            mask = shape_mask(shape, big, big / 2, big / 2, radius * _DRAWN_LARGER, angle)
            values = np.asarray(mask.resize((side, side), Image.Resampling.LANCZOS), dtype=np.float32)
            values = values - values.mean()
            rows.append(values / np.linalg.norm(values))
    return torch.from_numpy(np.stack(rows))[:, None]


def shape_followed(picture: Image.Image, shape: str) -> bool:
    """Whether the requested shape fits the drawing better than every other."""
    scores = shape_scores(picture)
    return max(scores, key=lambda name: scores[name]) == shape


OBJECT_SHARE = 0.02
"""An object's colour counts as present from this share of the picture on (a small star covers 4 %)."""


def background_followed(picture: Image.Image, background: str) -> bool:
    """Whether the requested background is the picture's dominant colour."""
    shares = colour_shares(picture)
    return max(shares, key=lambda name: shares[name]) == background


def object_followed(picture: Image.Image, colour: str) -> bool:
    """Whether the requested object's colour is present."""
    return colour_shares(picture)[colour] >= OBJECT_SHARE


def rate(results: Iterable[bool]) -> float:
    """The share of True."""
    listed = list(results)
    return sum(listed) / len(listed)

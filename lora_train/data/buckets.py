"""Aspect-ratio buckets: pictures of similar shape train together, cropped as little as possible.

After kohya's sd-scripts (`model_util.make_bucket_resolutions`), itself after NovelAI's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from PIL import Image

Size = tuple[int, int]
"""Width and height in pixels."""


@dataclass(frozen=True)
class Placement:
    """How a picture fills its bucket: scaled to `scaled`, then cut at (`left`, `top`) to `bucket`."""

    bucket: Size
    scaled: Size
    left: int
    top: int


def make_buckets(resolution: int, smallest: int, largest: int, step: int) -> list[Size]:
    """All bucket sizes of at most `resolution`^2 pixels, sides multiples of `step` within the bounds."""
    area = resolution * resolution
    square = max(step, resolution // step * step)
    sizes = {(square, square)}
    for width in range(max(step, smallest // step * step), largest + 1, step):
        height = min(largest, area // width // step * step)
        if height >= smallest:
            sizes |= {(width, height), (height, width)}
    return sorted(sizes)


def place(size: Size, buckets: list[Size]) -> Placement:
    """Put a picture into the bucket of nearest aspect ratio: scale it to cover, cut the centre."""
    aspect = math.log(size[0] / size[1])
    bucket = min(buckets, key=lambda b: (abs(math.log(b[0] / b[1]) - aspect), -b[0] * b[1]))
    return _cover(size, bucket)


def place_without_upscale(size: Size, resolution: int, step: int) -> Placement:
    """A bucket made for this picture: reduced to the area bound, never enlarged, sides cut to `step`."""
    width, height = size
    ratio = min(1.0, math.sqrt(resolution * resolution / (width * height)))
    scaled = max(step, round(width * ratio)), max(step, round(height * ratio))
    return _cover(size, (scaled[0] // step * step, scaled[1] // step * step))


def _cover(size: Size, bucket: Size) -> Placement:
    ratio = max(bucket[0] / size[0], bucket[1] / size[1])
    scaled = max(bucket[0], round(size[0] * ratio)), max(bucket[1], round(size[1] * ratio))
    return Placement(bucket, scaled, (scaled[0] - bucket[0]) // 2, (scaled[1] - bucket[1]) // 2)


def cut(picture: Image.Image, placement: Placement) -> Image.Image:
    """Scale and crop `picture` as `placement` says."""
    if picture.size != placement.scaled:
        reduce = placement.scaled[0] < picture.width
        picture = picture.resize(placement.scaled, Image.Resampling.LANCZOS if reduce else Image.Resampling.BICUBIC)
    width, height = placement.bucket
    return picture.crop((placement.left, placement.top, placement.left + width, placement.top + height))

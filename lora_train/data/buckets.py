"""Aspect-ratio buckets: pictures of similar shape train together, cropped as little as possible.

After kohya's sd-scripts (`model_util.make_bucket_resolutions`), itself after NovelAI's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from PIL import Image

Size = tuple[int, int]
"""Width and height in pixels."""


FAR = 4
"""A picture that covers its bucket this many times over is cropped before it is scaled."""


@dataclass(frozen=True)
class Placement:
    """How a picture fills its bucket: scaled to `scaled`, then cropped at (`left`, `top`) to `bucket`."""

    bucket: Size
    scaled: Size
    left: int
    top: int


def make_buckets(size: Size, smallest: int, largest: int, step: int) -> list[Size]:
    """All bucket sizes of at most the area of `size`, sides multiples of `step` within the bounds."""
    area = size[0] * size[1]
    square = max(step, math.isqrt(area) // step * step)
    sizes = {(square, square)}
    for width in range(max(step, smallest // step * step), largest + 1, step):
        height = min(largest, area // width // step * step)
        if height >= smallest:
            sizes |= {(width, height), (height, width)}
    return sorted(sizes)


def place(size: Size, buckets: list[Size]) -> Placement:
    """Put a picture into the bucket of nearest aspect ratio: scaled to cover it, cropped around the centre.

    As in sd-scripts (`BucketManager.select_bucket`), so that its cached latents and ours are interchangeable: the
    picture's own size wins, then the smallest difference of width / height, then the first in order.
    """
    aspect = size[0] / size[1]
    return _cover(size, size if size in buckets else min(buckets, key=lambda one: abs(one[0] / one[1] - aspect)))


def place_without_upscale(size: Size, limit: Size, step: int) -> Placement:
    """A bucket made for this picture: reduced to the area of `limit`, never enlarged, sides cropped to multiples of
    `step`.

    As in sd-scripts: of a picture that is too large, the side is rounded whose rounding changes the shape less.
    """
    scaled, area = size, limit[0] * limit[1]
    if size[0] * size[1] > area:
        aspect = size[0] / size[1]
        wide = math.sqrt(area * aspect)
        width, height = _to_steps(wide, step), _to_steps(area / wide, step)
        by_width = abs(width / _to_steps(width / aspect, step) - aspect)
        by_height = abs(_to_steps(height * aspect, step) / height - aspect)
        scaled = (width, _round(width / aspect)) if by_width < by_height else (_round(height * aspect), height)
    bucket = max(step, scaled[0] // step * step), max(step, scaled[1] // step * step)
    if bucket[0] * bucket[1] > 2 * area:  # a thin strip, which is enlarged to the smallest step
        longest = max(step, area // min(bucket) // step * step)
        bucket = min(bucket[0], longest), min(bucket[1], longest)
    return _centred(bucket, scaled) if min(scaled) >= step else _cover(size, bucket)


def _to_steps(side: float, step: int) -> int:
    return max(step, _round(side) // step * step)


def _round(side: float) -> int:
    return int(side + 0.5)


def _cover(size: Size, bucket: Size) -> Placement:
    ratio = max(bucket[0] / size[0], bucket[1] / size[1])
    return _centred(bucket, (max(bucket[0], _round(size[0] * ratio)), max(bucket[1], _round(size[1] * ratio))))


def _centred(bucket: Size, scaled: Size) -> Placement:
    return Placement(bucket, scaled, (scaled[0] - bucket[0]) // 2, (scaled[1] - bucket[1]) // 2)


def cut(picture: Image.Image, placement: Placement, filter: Image.Resampling | None = None) -> Image.Image:
    """Scale and crop `picture` as `placement` says; `filter` defaults to that of sd-scripts.

    Where a picture's shape is far from the bucket's, only the visible part is scaled: a strip of 30,000 x 2 pixels
    takes no more memory than any other picture.
    """
    (width, height), (left, top) = placement.bucket, (placement.left, placement.top)
    if filter is None:
        reduce = placement.scaled[0] < picture.width
        filter = Image.Resampling.LANCZOS if reduce else Image.Resampling.BICUBIC
    if placement.scaled[0] * placement.scaled[1] <= FAR * width * height:
        picture = picture if picture.size == placement.scaled else picture.resize(placement.scaled, filter)
        return picture.crop((left, top, left + width, top + height))
    # nearly the same pixels: Pillow keeps the box in fp32, which shifts each by a rounding error
    across, down = picture.width / placement.scaled[0], picture.height / placement.scaled[1]
    right, bottom = min(picture.width, (left + width) * across), min(picture.height, (top + height) * down)
    return picture.resize((width, height), filter, (left * across, top * down, right, bottom))

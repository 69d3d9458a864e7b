from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from lora_train.data.buckets import Placement, cut, make_buckets, place, place_without_upscale


def test_the_buckets_of_sd1() -> None:
    """kohya's list for 512, 256 to 1024, step 64."""
    expected = {
        (256, 832),
        (256, 896),
        (256, 960),
        (256, 1024),
        (320, 704),
        (320, 768),
        (384, 640),
        (448, 576),
        (512, 512),
    }
    buckets = set(make_buckets((512, 512), 256, 1024, 64))
    assert {(512, 512), (448, 576), (576, 448), (384, 640), (320, 768), (256, 1024)} <= buckets
    assert all(w * h <= 512 * 512 and w % 64 == h % 64 == 0 for w, h in buckets)
    assert all((h, w) in buckets for w, h in buckets)
    assert {b for b in buckets if b[0] <= b[1]} <= expected


sizes = st.tuples(st.integers(16, 6000), st.integers(16, 6000))


@given(sizes)
def test_a_picture_covers_its_bucket_and_is_cut_in_the_middle(size: tuple[int, int]) -> None:
    placement = place(size, make_buckets((512, 512), 256, 1024, 64))
    for side in (0, 1):
        assert placement.scaled[side] >= placement.bucket[side]
    assert placement.scaled[0] == placement.bucket[0] or placement.scaled[1] == placement.bucket[1]
    assert 0 <= placement.left <= placement.scaled[0] - placement.bucket[0]
    assert 0 <= placement.top <= placement.scaled[1] - placement.bucket[1]


@given(sizes)
def test_without_upscale_nothing_grows_beyond_one_step(size: tuple[int, int]) -> None:
    placement = place_without_upscale(size, (512, 512), 64)
    assert placement.bucket[0] % 64 == placement.bucket[1] % 64 == 0
    assert placement.scaled[0] <= max(64, size[0]) or placement.scaled[1] <= max(64, size[1])


BUCKETS = make_buckets((512, 512), 256, 1024, 64)


@example((256, 192))  # as near to the square as to the next wider one
@example((448, 576))
@given(sizes)
def test_buckets_are_kohyas(size: tuple[int, int]) -> None:
    """sd-scripts' formula, with numpy as there."""
    width, height = size
    errors = np.array([w / h for w, h in BUCKETS]) - width / height
    wanted = size if size in BUCKETS else BUCKETS[int(np.abs(errors).argmin())]
    scale = wanted[1] / height if width / height > wanted[0] / wanted[1] else wanted[0] / width
    placement = place(size, BUCKETS)
    assert placement.bucket == wanted
    assert placement.scaled == (int(width * scale + 0.5), int(height * scale + 0.5))


@example((1999, 1500))
@given(st.tuples(st.integers(64, 6000), st.integers(64, 6000)).filter(lambda size: 0.3 < size[0] / size[1] < 3))
def test_buckets_without_upscale_are_kohyas(size: tuple[int, int]) -> None:
    width, height = size
    aspect, resized = width / height, size

    def to_steps(side: float) -> int:
        return int(side + 0.5) - int(side + 0.5) % 64

    if width * height > 512 * 512:
        wide = math.sqrt(512 * 512 * aspect)
        by_width, by_height = to_steps(wide), to_steps(512 * 512 / wide)
        error_width = abs(by_width / to_steps(by_width / aspect) - aspect)
        error_height = abs(to_steps(by_height * aspect) / by_height - aspect)
        if error_width < error_height:
            resized = by_width, int(by_width / aspect + 0.5)
        else:
            resized = int(by_height * aspect + 0.5), by_height
    placement = place_without_upscale(size, (512, 512), 64)
    assert placement.scaled == resized
    assert placement.bucket == (resized[0] - resized[0] % 64, resized[1] - resized[1] % 64)


def test_nearest_aspect_ratio_wins() -> None:
    buckets = make_buckets((512, 512), 256, 1024, 64)
    assert place((3000, 3000), buckets).bucket == (512, 512)
    width, height = place((1920, 1080), buckets).bucket
    assert abs(width / height - 1920 / 1080) < 0.15


def scaled_whole(picture: Image.Image, placement: Placement) -> Image.Image:
    """As sd-scripts does it."""
    reduce = placement.scaled[0] < picture.width
    whole = picture.resize(placement.scaled, Image.Resampling.LANCZOS if reduce else Image.Resampling.BICUBIC)
    (width, height), (left, top) = placement.bucket, (placement.left, placement.top)
    return whole.crop((left, top, left + width, top + height))


@pytest.mark.parametrize("size", [(700, 500), (300, 200), (1800, 90), (90, 1800), (40, 1000)])
def test_cutting_first_changes_no_pixel_by_more_than_a_rounding(size: tuple[int, int]) -> None:
    picture = Image.effect_noise(size, 90).convert("RGB")
    placement = place(size, BUCKETS)
    wanted, found = scaled_whole(picture, placement), cut(picture, placement)
    assert np.abs(np.asarray(wanted, dtype=int) - np.asarray(found)).max() <= 2


@pytest.mark.parametrize("size", [(30_000, 2), (2, 30_000), (60_000, 10), (1, 1)])
def test_a_strip_is_cut_before_it_is_scaled(size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[int, int]] = []
    resize = Image.Image.resize

    def watched(self: Image.Image, size: tuple[int, int], *rest: object) -> Image.Image:
        made.append(size)
        return resize(self, size, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(Image.Image, "resize", watched)
    picture = Image.new("RGB", size)
    across, down = (side // 3 if side > 10 else 0 for side in size)
    picture.paste((255, 0, 0), (across, down, size[0] - across, size[1] - down))
    for placement in (place(size, BUCKETS), place_without_upscale(size, (512, 512), 64)):
        found = cut(picture, placement)
        assert found.size == placement.bucket and found.size[0] * found.size[1] <= 512 * 512
        assert found.getextrema() == ((255, 255), (0, 0), (0, 0))  # the middle
    assert all(width * height <= 4 * 512 * 512 for width, height in made)


def test_cut_takes_the_centre() -> None:
    array = np.zeros((100, 200, 3), dtype=np.uint8)
    array[:, 50:150] = 255
    placement = place((200, 100), [(100, 100)])
    assert np.asarray(cut(Image.fromarray(array), placement)).min() == 255

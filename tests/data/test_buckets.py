from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from lora_train.data.buckets import cut, make_buckets, place, place_without_upscale


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
    buckets = set(make_buckets(512, 256, 1024, 64))
    assert {(512, 512), (448, 576), (576, 448), (384, 640), (320, 768), (256, 1024)} <= buckets
    assert all(w * h <= 512 * 512 and w % 64 == h % 64 == 0 for w, h in buckets)
    assert all((h, w) in buckets for w, h in buckets)
    assert {b for b in buckets if b[0] <= b[1]} <= expected


sizes = st.tuples(st.integers(16, 6000), st.integers(16, 6000))


@given(sizes)
def test_a_picture_covers_its_bucket_and_is_cut_in_the_middle(size: tuple[int, int]) -> None:
    placement = place(size, make_buckets(512, 256, 1024, 64))
    for side in (0, 1):
        assert placement.scaled[side] >= placement.bucket[side]
    assert placement.scaled[0] == placement.bucket[0] or placement.scaled[1] == placement.bucket[1]
    assert 0 <= placement.left <= placement.scaled[0] - placement.bucket[0]
    assert 0 <= placement.top <= placement.scaled[1] - placement.bucket[1]


@given(sizes)
def test_without_upscale_nothing_grows_beyond_one_step(size: tuple[int, int]) -> None:
    placement = place_without_upscale(size, 512, 64)
    assert placement.bucket[0] % 64 == placement.bucket[1] % 64 == 0
    assert placement.scaled[0] <= max(64, size[0]) or placement.scaled[1] <= max(64, size[1])


def test_nearest_aspect_ratio_wins() -> None:
    buckets = make_buckets(512, 256, 1024, 64)
    assert place((3000, 3000), buckets).bucket == (512, 512)
    width, height = place((1920, 1080), buckets).bucket
    assert abs(width / height - 1920 / 1080) < 0.15


def test_cut_takes_the_centre() -> None:
    array = np.zeros((100, 200, 3), dtype=np.uint8)
    array[:, 50:150] = 255
    placement = place((200, 100), [(100, 100)])
    assert np.asarray(cut(Image.fromarray(array), placement)).min() == 255

"""Each score against the page's formula, written plainly with numpy, scipy and scikit-image."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from lora_train.config import PrepareOptions
from lora_train.config.choices import PREPARE_OPERATIONS
from lora_train.prepare.base import Box, NoView, Plan, View, fit
from lora_train.prepare.detectors import Found
from lora_train.prepare.operations import TABLE, blur, body, dynamic_range, face, similar
from lora_train.prepare.operations.body import padded
from lora_train.prepare.operations.face import inside, padded_square
from tests.prepare.samples import noise, real

NAMES = ("astronaut", "chelsea", "coffee", "rocket", "china", "flower")


def test_the_table_and_the_options_name_the_same_operations() -> None:
    assert (*TABLE, "interrogate") == PREPARE_OPERATIONS


def plain_blur(picture: Image.Image) -> float:
    grey = np.asarray(picture.convert("L"))
    middle_y, middle_x = grey.shape[0] // 2, grey.shape[1] // 2
    shifted = np.fft.fftshift(np.fft.fft2(grey))
    shifted[middle_y - 60 : middle_y + 60, middle_x - 60 : middle_x + 60] = 0
    return float(np.mean(np.log(np.abs(np.fft.ifft2(np.fft.ifftshift(shifted))))))


@pytest.mark.parametrize("name", NAMES)
def test_blur_is_the_formula(name: str) -> None:
    picture = fit(real(name), 512)
    assert blur.score(picture) == pytest.approx(plain_blur(picture), abs=1e-6)


@pytest.mark.parametrize("size", [(121, 121), (122, 140), (151, 200), (200, 151), (257, 123)])
def test_blur_is_the_formula_at_odd_sizes(size: tuple[int, int]) -> None:
    picture = Image.effect_noise(size, 60).convert("RGB")
    assert blur.score(picture) == pytest.approx(plain_blur(picture), abs=1e-6)


def test_blur_of_flat_and_small_pictures_is_a_number() -> None:
    for picture in (Image.new("RGB", (300, 300), "red"), Image.new("RGB", (1, 1)), noise(0, (100, 60))):
        assert -30 < blur.score(picture) < -20


@pytest.mark.parametrize("name", NAMES)
def test_dynamic_range_is_the_formula(name: str) -> None:
    stats = pytest.importorskip("scipy.stats")
    picture = fit(real(name), 512)
    red, green, blue = np.moveaxis(np.asarray(picture, dtype=np.float64), -1, 0)
    brightness = np.sqrt(0.299 * red**2 + 0.587 * green**2 + 0.114 * blue**2)
    counts, _ = np.histogram(np.minimum(brightness, 255), bins=256, range=(0, 255))
    wanted = stats.beta(2, 2).pdf(np.linspace(0, 1, 256))
    expected = counts @ wanted / np.linalg.norm(counts) / np.linalg.norm(wanted)
    assert dynamic_range.score(picture) == pytest.approx(expected, abs=1e-6)


def test_similarity_is_scikit_images() -> None:
    metrics = pytest.importorskip("skimage.metrics")
    greys = [np.asarray(real(name).convert("L").resize((64, 64), Image.Resampling.BICUBIC)) for name in NAMES]
    greys += [np.full((64, 64), 200, np.uint8), np.asarray(Image.fromarray(greys[0]).rotate(1))]
    for one in greys:
        expected = [metrics.structural_similarity(one, other, data_range=255) for other in greys]
        assert similar.ssim(one, np.stack(greys)) == pytest.approx(expected, abs=1e-6)


def test_the_hash_misses_no_similar_picture() -> None:
    """All pairs by SSIM alone, against the prefiltered search."""
    base = [real(name) for name in NAMES]
    pictures = [*base, *(p.crop((3, 3, p.width - 4, p.height - 4)) for p in base)]
    pictures += [p.resize((100, 80)) for p in base] + [Image.new("RGB", (80, 80), (v, v, v)) for v in (90, 95, 240)]
    signatures = [similar.signature(picture) for picture in pictures]
    greys = np.stack([np.asarray(p.convert("L").resize((64, 64), Image.Resampling.BICUBIC)) for p in pictures])
    kept = similar.Kept()
    for number, text in enumerate(signatures):
        found, name = kept.nearest(text)
        scores = similar.ssim(greys[number], greys[:number]) if number else np.zeros(1)
        if scores.max() > 0.8:
            assert found == pytest.approx(float(scores.max()))
            assert scores[int(name)] == pytest.approx(found)
        else:
            assert found <= 0.8
        kept.add(str(number), text)


def test_thresholds_act_on_their_side() -> None:
    options = PrepareOptions()
    assert blur.verdict(1.81, options) and not blur.verdict(1.8, options)
    assert dynamic_range.verdict(0.149, options) and not dynamic_range.verdict(0.15, options)


@dataclass
class Looked:
    """What a picture of 1000 x 500 was found to show, for the operations that cut it."""

    face: Found
    others: tuple[Found, ...] = ()
    body_found: Found | None = None
    options: dict[str, Any] = field(default_factory=dict)

    def make(self, operation: Any) -> View:
        opened = SimpleNamespace(
            size=(1000, 500),
            once=lambda what, find: find(),
            at_least=lambda side: Image.new("RGB", (64, 32)),
            full=lambda: Image.new("RGB", (1000, 500)),
        )
        detectors = SimpleNamespace(
            title=lambda role: "detector",
            face=lambda: SimpleNamespace(faces=lambda picture: [*self.others, self.face]),
            body=lambda: SimpleNamespace(body=lambda picture: self.body_found),
        )
        view: View = operation.make(
            opened, SimpleNamespace(plan=Plan(PrepareOptions(**self.options), ""), detectors=detectors)
        )
        return view


FACE = Found(0.4, 0.4, 0.5, 0.6, 0.7)


def test_a_face_that_is_just_sure_enough_counts() -> None:
    assert Looked(FACE, options={"face_score": 0.7}).make(face).problem is None
    with pytest.raises(NoView, match="with a confidence of 0.70; 0.71 is needed"):
        Looked(FACE, options={"face_score": 0.71}).make(face)


def test_a_face_that_just_touches_the_edge_is_inside() -> None:
    assert inside(Found(0.0, 0.0, 1.0, 1.0, 1))
    outside: tuple[tuple[float, float, float, float], ...] = (
        (-0.001, 0, 1, 1),
        (0, -0.001, 1, 1),
        (0, 0, 1.001, 1),
        (0, 0, 1, 1.001),
    )
    for cut_off in outside:
        assert not inside(Found(*cut_off, 1))
        assert (Looked(Found(*cut_off, 1)).make(face).problem or ("",))[0] == "face out of frame"


def test_the_face_that_is_surest_is_taken_and_padded_as_asked() -> None:
    others = Found(0.0, 0.0, 0.9, 0.9, 0.6), Found(0.1, 0.1, 0.11, 0.11, 0.7)  # larger, and smaller but as sure
    view = Looked(FACE, others, options={"face_pad": 0.25}).make(face)
    assert (view.box, view.size, view.confidence) == (Box(375, 175, 525, 325), (150, 150), 0.7)
    assert view.picture.size == view.size


@pytest.mark.parametrize(
    ("parts", "score", "needed"), [(5, 0.0, "only 4 parts"), (None, 0.6, "with a confidence of 0.59")]
)
def test_a_body_that_is_just_good_enough_counts(parts: int | None, score: float, needed: str) -> None:
    options = {"body_parts": 5, "body_score": 0.6, "body_pad": 0.1}
    body_found = Found(0.3, 0.1, 0.7, 0.9, score, parts)
    assert Looked(FACE, (), body_found, options).make(body).box == Box(260, 10, 740, 490)
    less = replace(body_found, score=score - 0.01, parts=parts - 1 if parts else None)
    with pytest.raises(NoView, match=needed):
        Looked(FACE, (), less, options).make(body)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (Found(0.4, 0.4, 0.5, 0.6, 1), Box(390, 190, 510, 310)),  # longer side 100, padded to 120
        (Found(0.0, 0.0, 0.1, 0.2, 1), Box(0, 0, 120, 120)),  # moved into the frame
        (Found(0.1, 0.0, 0.9, 1.0, 1), Box(250, 0, 750, 500)),  # no larger than the shorter side
    ],
)
def test_the_box_around_a_face(found: Found, expected: Box) -> None:
    assert padded_square(found, (1000, 500), 0.1) == expected


def test_the_box_around_a_body() -> None:
    assert padded(Found(0.4, 0.2, 0.6, 0.9, 1), (1000, 500), 0.2) == Box(360, 30, 640, 500)


def test_fit_keeps_the_aspect() -> None:
    assert fit(Image.new("RGB", (1000, 400)), 512).size == (512, 205)
    assert fit(Image.new("RGB", (100, 40)), 512).size == (100, 40)
    assert fit(Image.new("RGB", (100, 40)), 512, enlarge=True).size == (512, 205)
    assert fit(Image.new("RGB", (20_000, 3)), 512).size == (512, 1)


def test_a_mirrored_twin_has_the_mirrored_signature() -> None:
    picture = real("astronaut")
    turned = similar.signature(ImageOps.mirror(picture))
    assert similar.mirrored(similar.mirrored(turned)) == turned
    kept = similar.Kept()
    kept.add("a", similar.signature(picture))
    assert kept.nearest(turned)[0] < 0.8
    score, name = kept.nearest(similar.mirrored(turned))
    assert score > 0.98 and name == "a"

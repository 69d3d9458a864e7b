"""Faces, bodies and backgrounds, by whichever detectors are installed."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lora_train.config import PrepareOptions
from lora_train.prepare import prepare
from lora_train.prepare.base import Plan
from lora_train.prepare.detectors import Detectors, Found, choose, opencv
from lora_train.prepare.detectors.base import Missing
from tests.prepare.samples import real

cv2 = pytest.importorskip("cv2")
MEDIAPIPE = importlib.util.find_spec("mediapipe") is not None


def report(tmp_path: Path, picture: Image.Image, name: str = "a.jpg", **options: Any) -> tuple[Any, dict[str, Any]]:
    (tmp_path / "in").mkdir(exist_ok=True)
    picture.save(tmp_path / "in" / name, quality=95)
    prepared = prepare(tmp_path / "in", PrepareOptions(**options), tmp_path / "work")
    content = json.loads((tmp_path / "work" / "report.json").read_text(encoding="utf-8"))
    return prepared, {line["operation"]: line for line in content["pictures"]} | {"detectors": content["detectors"]}


def overlap(one: list[float], other: list[float]) -> float:
    """Intersection over union."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    both = max(0.0, width) * max(0.0, height)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return both / (sum(areas) - both)


def second_opinion(picture: Image.Image, pad: float) -> list[float]:
    """The padded square by another cascade, trained by others on other features (scikit-image's LBP)."""
    data, feature = pytest.importorskip("skimage.data"), pytest.importorskip("skimage.feature")
    cascade = feature.Cascade(data.lbp_frontal_face_cascade_filename())
    small = picture.resize((512, 512))
    found = cascade.detect_multi_scale(np.asarray(small), 1.2, 1, (60, 60), (200, 200))
    best = max(found, key=lambda box: box["width"])
    side = best["width"] * (1 + 2 * pad)
    left, top = best["c"] - best["width"] * pad, best["r"] - best["width"] * pad
    return [value * picture.width / 512 for value in (left, top, left + side, top + side)]


def test_the_astronauts_face_comes_square_from_the_full_size(tmp_path: Path) -> None:
    picture = real("astronaut").resize((2048, 2048), Image.Resampling.LANCZOS)
    prepared, lines = report(tmp_path, picture, operations=("face",), min_size=100)
    left, top, right, bottom = lines["face"]["box"]
    assert right - left == bottom - top
    assert overlap(lines["face"]["box"], second_opinion(picture, 0.1)) > 0.6
    assert lines["face"]["detector"] == lines["detectors"]["face"] and lines["face"]["confidence"] >= 0.7
    with Image.open(tmp_path / "in" / "a.jpg") as whole, Image.open(prepared.folder / "a-face.png") as face:
        expected = np.asarray(whole.convert("RGB").crop((left, top, right, bottom)))
        assert np.array_equal(np.asarray(face), expected)


def test_a_small_face_is_rejected_with_advice(tmp_path: Path) -> None:
    picture = real("astronaut").resize((1400, 1400))
    _, lines = report(tmp_path, picture, operations=("face",))
    width = lines["face"]["size"][0]
    assert lines["face"]["reason"] == f"face found but only {width} px wide; needs 512; switch on upscale"


def test_one_picture_gives_an_original_and_a_face(tmp_path: Path) -> None:
    prepared, lines = report(
        tmp_path, real("astronaut"), operations=("original", "face", "resize"), target=128, min_size=100
    )
    assert lines["original"]["outcome"] == lines["face"]["outcome"] == "kept"
    assert sorted(path.name for path in prepared.folder.iterdir()) == ["a-face.png", "a.png"]


def test_no_face_says_who_looked(tmp_path: Path) -> None:
    _, lines = report(tmp_path, real("coffee"), operations=("face", "body"))
    assert lines["face"]["rule"] == "no face" and lines["detectors"]["face"] in lines["face"]["reason"]
    assert lines["body"]["outcome"] == "rejected"


def test_a_face_cut_off_by_the_edge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outside = Found(-0.05, 0.2, 0.3, 0.5, 0.9)
    monkeypatch.setattr(opencv.Haar, "faces", lambda self, picture: [outside])
    monkeypatch.setattr("lora_train.prepare.detectors.PREFERRED", dict.fromkeys(("face", "body"), ("opencv",)))
    _, lines = report(tmp_path, real("astronaut"), operations=("face", "body"), target=64)
    assert lines["face"]["rule"] == lines["body"]["rule"] == "face out of frame"
    assert lines["face"]["can_be_kept"] and not lines["body"]["can_be_kept"]


def test_the_background_is_replaced_and_the_mask_kept(tmp_path: Path) -> None:
    prepared, _ = report(
        tmp_path, real("astronaut"), operations=("original", "segment", "resize", "square"), target=256
    )
    assert prepared.masks is not None
    with Image.open(prepared.masks / "a.png") as mask, Image.open(prepared.folder / "a.png") as picture:
        assert mask.mode == "L" and mask.size == picture.size == (256, 256)
        person, pixels = np.asarray(mask), np.asarray(picture)
    assert 0.1 < (person == 255).mean() < 0.95
    assert person[int(256 * 0.22), int(256 * 0.43)] == 255  # the face
    assert (pixels[person == 0] == 192).all()


def test_what_no_detector_can_do_is_said_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(role: str, plan: Plan) -> str:
        raise Missing("OpenCV is not installed")

    monkeypatch.setattr(opencv, "title", missing)
    monkeypatch.setattr("lora_train.prepare.detectors.PREFERRED", dict.fromkeys(("face", "segment"), ("opencv",)))
    prepared, lines = report(tmp_path, real("coffee"), operations=("original", "face", "segment"))
    assert [note.split(":")[0] for note in prepared.notes] == [
        "Faces cannot be found",
        "Backgrounds cannot be replaced",
    ]
    assert all("pip install" in note for note in prepared.notes)
    assert "face" not in lines and lines["original"]["outcome"] == "kept"


@pytest.mark.skipif(MEDIAPIPE, reason="mediapipe is installed")
def test_without_mediapipe_opencv_does_it() -> None:
    plan, notes = choose(Plan(PrepareOptions(), ""), {"face", "body", "segment"})
    assert set(plan.detectors.values()) == {"opencv"} and not notes


def test_opencv_takes_the_person_that_it_is_surest_of(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a stand-in for its detector: pixels are BGR, boxes are left, top, width and height in pixels."""
    hog, seen = opencv.Hog(), list[np.ndarray]()
    assert len(hog._hog.svmDetector) > 3000, "it would look for nothing"
    boxes: tuple[Any, np.ndarray] = [(10, 20, 100, 40), (40, 10, 80, 90), (0, 0, 20, 10)], np.array([0.4, 1.7, -0.2])

    def detect(pixels: np.ndarray, **_options: Any) -> Any:
        seen.append(pixels)
        return boxes

    monkeypatch.setattr(hog, "_hog", SimpleNamespace(detectMultiScale=detect))
    picture = Image.new("RGB", (200, 100), (255, 0, 7))
    found = hog.body(picture)
    assert found is not None and found.parts is None
    assert (found.left, found.top, found.right, found.bottom) == pytest.approx((0.2, 0.1, 0.6, 1.0))
    assert found.score == 1.0 and tuple(seen[0][0, 0]) == (7, 0, 255)
    boxes = [(10, 20, 100, 40)], np.array([0.4])
    assert (hog.body(picture) or found).score == pytest.approx(0.4)
    boxes = (), np.array([])
    assert hog.body(picture) is None


def test_how_sure_a_face_must_be_is_the_persons_choice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = Found(0.2, 0.2, 0.4, 0.5, 0.8)
    monkeypatch.setattr(opencv.Haar, "faces", lambda self, picture: [found])
    monkeypatch.setattr("lora_train.prepare.detectors.PREFERRED", {"face": ("opencv",)})
    for score, rule in ((0.8, ""), (0.81, "no face")):
        _, lines = report(tmp_path, real("astronaut"), operations=("face",), min_size=8, face_score=score)
        assert lines["face"]["rule"] == rule


def test_a_face_is_as_transparent_as_its_picture_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mask of a cut-out face is cut out with it."""
    monkeypatch.setattr(opencv.Haar, "faces", lambda self, picture: [Found(0.4, 0.2, 0.6, 0.6, 0.9)])
    monkeypatch.setattr("lora_train.prepare.detectors.PREFERRED", {"face": ("opencv",)})
    picture = real("astronaut").resize((200, 100)).convert("RGBA")
    alpha = Image.fromarray(np.random.default_rng(0).integers(0, 256, (100, 200), dtype=np.uint8))
    picture.putalpha(alpha)
    prepared, lines = report(tmp_path, picture, "a.png", operations=("face",), min_size=8, face_pad=0.0)
    assert lines["face"]["box"] == [80, 20, 120, 60] and prepared.masks is not None
    with Image.open(prepared.masks / "a-face.png") as mask:
        assert np.array_equal(np.asarray(mask), np.asarray(alpha)[20:60, 80:120])


@pytest.mark.skipif(not MEDIAPIPE, reason="mediapipe is not installed (the people extra)")
def test_mediapipe_and_opencv_agree_on_the_astronauts_face(tmp_path: Path) -> None:
    """By the whole pipeline, each with the padding rule: the square is cut from the full-size picture."""
    picture = real("astronaut").resize((2048, 2048), Image.Resampling.LANCZOS)
    boxes = {}
    for name in ("mediapipe_people", "opencv"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("lora_train.prepare.detectors.PREFERRED", {"face": (name,)})
            (tmp_path / name).mkdir()
            _, lines = report(tmp_path / name, picture, operations=("face",), min_size=100)
        assert name.split("_")[0] in lines["face"]["detector"].lower()
        boxes[name] = lines["face"]["box"]
    left, top, right, bottom = boxes["mediapipe_people"]
    assert right - left == bottom - top
    assert overlap(*boxes.values()) > 0.6


@pytest.mark.skipif(not MEDIAPIPE, reason="mediapipe is not installed (the people extra)")
def test_mediapipe_finds_face_and_body(tmp_path: Path) -> None:
    plan, _ = choose(Plan(PrepareOptions(body_score=0.5), ""), {"face", "body", "segment"})
    assert plan.detectors["body"] == plan.detectors["segment"] == "mediapipe_people"
    detectors = Detectors(plan)
    body, face = detectors.body().body(real("astronaut")), detectors.face().faces(real("astronaut"))[0]
    assert body is not None and body.parts and body.left < face.left and body.right > face.right
    prepared, lines = report(
        tmp_path, real("astronaut"), operations=("body",), target=128, body_score=0.5, body_parts=body.parts
    )
    assert lines["body"]["outcome"] == "kept" and prepared.summary["kept"] == 1
    _, lines = report(tmp_path, real("astronaut"), operations=("body",), target=128, body_score=0.5, body_parts=33)
    assert lines["body"]["rule"] == "too few parts of the body"

"""facexlib's detector, by a stand-in with its interface (0.3.0): its weights cannot be shipped with tests."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lora_train.config import PrepareOptions
from lora_train.prepare.base import Plan
from lora_train.prepare.detectors import Detectors, choose, opencv, retinaface, shared_memory

torch = pytest.importorskip("torch")

FAKE = '''
import torch

class RetinaFace(torch.nn.Module):
    def __init__(self, network_name="resnet50", half=False, phase="test", device=None):
        super().__init__()
        assert network_name == "resnet50" and not half and device == torch.device("cpu")
        self.scale = torch.nn.Parameter(torch.zeros(1))

    def detect_faces(self, image, conf_threshold=0.8, nms_threshold=0.4, use_origin_size=True):
        """Two faces, where the picture is blue; rows as facexlib gives them, landmarks behind the score."""
        import numpy as np

        assert image.ndim == 3 and image.dtype == np.uint8 and conf_threshold <= 0.3 and not self.training
        rows = np.argwhere(image[:, :, 0] == 255)
        (top, left), (bottom, right) = rows.min(axis=0), rows.max(axis=0) + 1
        surest = float(self.scale) * 0.9
        return np.array(
            [[left, top, right, bottom, surest, *[0] * 10], [-20, 0, 10, 30, 0.4, *[0] * 10]], dtype=np.float32
        )
'''


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with weights named as facexlib saves them, and the stand-ins on the path."""
    package = tmp_path / "packages" / "facexlib" / "detection"
    package.mkdir(parents=True)
    (package.parent / "__init__.py").touch()
    (package / "__init__.py").touch()
    (package / "retinaface.py").write_text(FAKE)
    (tmp_path / "packages" / "torchvision").mkdir()
    (tmp_path / "packages" / "torchvision" / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path / "packages"))
    for name in [name for name in sys.modules if name.split(".")[0] in ("facexlib", "torchvision")]:
        monkeypatch.delitem(sys.modules, name)
    retinaface._load.cache_clear()
    folder = tmp_path / "weights"
    folder.mkdir()
    torch.save({"module.scale": torch.ones(1)}, folder / "detection_Resnet50_Final.pth")
    yield folder
    retinaface._load.cache_clear()
    for name in [name for name in sys.modules if name.split(".")[0] in ("facexlib", "torchvision")]:
        del sys.modules[name]


def test_it_is_preferred_and_its_boxes_are_parts_of_the_sides(weights: Path) -> None:
    plan, notes = choose(Plan(PrepareOptions(), "", weights=(str(weights),)), {"face"})
    assert plan.detectors == {"face": "retinaface"} and not notes and shared_memory(plan)
    picture = Image.new("RGB", (200, 100))
    picture.paste((0, 0, 255), (40, 20, 80, 70))
    surest, other = Detectors(plan).face().faces(picture)
    assert (surest.left, surest.top, surest.right, surest.bottom) == pytest.approx((0.2, 0.2, 0.4, 0.7))
    assert surest.score == pytest.approx(0.9)  # so the weights were loaded, without their "module."
    assert other.left == pytest.approx(-0.1)  # out of frame


def test_a_pickle_among_the_weights_is_not_run(weights: Path, tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (np.save, (str(tmp_path / "evil"),))

    torch.save({"module.scale": Evil()}, weights / "detection_Resnet50_Final.pth")
    plan = Plan(PrepareOptions(), "", detectors={"face": "retinaface"}, weights=(str(weights),))
    with pytest.raises(Exception, match="not loaded for safety"):
        Detectors(plan).face()
    assert not list(tmp_path.glob("evil*"))


def test_without_its_weights_another_does_it(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (weights / "detection_Resnet50_Final.pth").unlink()
    given = Plan(PrepareOptions(), "", weights=(str(weights),))
    monkeypatch.setattr(opencv, "title", lambda role, plan: "a stand-in")
    monkeypatch.setattr("lora_train.prepare.detectors.PREFERRED", {"face": ("retinaface", "opencv")})
    plan, notes = choose(given, {"face"})
    assert plan.detectors == {"face": "opencv"} and not notes and not shared_memory(plan)
    monkeypatch.setattr("lora_train.prepare.detectors.PREFERRED", {"face": ("retinaface",)})
    plan, notes = choose(given, {"face"})
    assert plan.detectors == {} and len(notes) == 1
    assert "facexlib has not downloaded its weights yet (detection_Resnet50_Final.pth)" in notes[0]


@pytest.mark.parametrize(("face_score", "asked"), [(0.7, 0.3), (0.1, 0.1)])
def test_it_is_asked_for_faces_that_are_less_sure_than_needed(weights: Path, face_score: float, asked: float) -> None:
    """So that the report can say how sure it was."""
    plan = Plan(PrepareOptions(face_score=face_score), "", detectors={"face": "retinaface"}, weights=(str(weights),))
    detector: Any = Detectors(plan).face()
    seen: list[float] = []

    def detect_faces(image: np.ndarray, conf: float) -> list[Any]:
        seen.append(conf)
        return []

    detector._model.detect_faces = detect_faces
    assert detector.faces(Image.new("RGB", (8, 8))) == [] and seen == [asked]

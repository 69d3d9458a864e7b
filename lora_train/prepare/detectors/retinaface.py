"""RetinaFace from the host's facexlib, where its weights are on disk: nothing is downloaded."""

from __future__ import annotations

import importlib.util
import threading
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lora_train.prepare.base import Plan
from lora_train.prepare.detectors.base import Found, Missing

LARGE = True
_WEIGHTS = "detection_Resnet50_Final.pth"
_LOCK = threading.Lock()


def title(role: str, plan: Plan) -> str:
    """Its name. Raises Missing."""
    _weights(plan.weights)
    if importlib.util.find_spec("torchvision") is None:
        raise Missing("facexlib needs torchvision, which is not installed")
    return "facexlib RetinaFace"


def make(role: str, plan: Plan) -> Any:
    """The face detector."""
    return RetinaFace(_weights(plan.weights), plan.options.face_score)


class RetinaFace:
    """Deng et al. 2019, on the CPU; one model for all workers.

    Checked against facexlib 0.3.0: `detect_faces(image, conf_threshold)` takes BGR pixels and returns rows of left,
    top, right, bottom, score and five landmarks, in pixels.
    """

    def __init__(self, weights: Path, least: float) -> None:
        self._model = _load(str(weights))
        self._least = min(least, 0.3)

    def faces(self, picture: Image.Image) -> list[Found]:
        """All faces that it has the least confidence in."""
        import torch

        pixels = np.ascontiguousarray(np.asarray(picture)[:, :, ::-1])
        with _LOCK, torch.no_grad():
            rows = self._model.detect_faces(pixels, self._least)
        width, height = picture.size
        return [
            Found(
                float(row[0]) / width,
                float(row[1]) / height,
                float(row[2]) / width,
                float(row[3]) / height,
                float(row[4]),
            )
            for row in rows
        ]


@lru_cache(maxsize=1)
def _load(weights: str) -> Any:
    """facexlib's own loading (0.3.0, which the hosts pin) would download what is missing."""
    import torch
    from facexlib.detection import retinaface

    from lora_train.tensors import read_tensors

    model = retinaface.RetinaFace(network_name="resnet50", half=False, device=torch.device("cpu"))
    state = read_tensors(Path(weights))
    model.load_state_dict({name.removeprefix("module."): value for name, value in state.items()})
    return model.eval()


def _weights(folders: tuple[str, ...]) -> Path:
    spec = importlib.util.find_spec("facexlib")
    if spec is None:
        raise Missing("facexlib is not installed")
    own = [str(Path(place) / "weights") for place in spec.submodule_search_locations or ()]
    for folder in (*folders, *own):
        file = Path(folder) / _WEIGHTS
        if file.is_file():
            return file
    raise Missing(f"facexlib has not downloaded its weights yet ({_WEIGHTS})")

"""OpenCV's own detectors: the Haar cascade for faces, HOG for people, GrabCut. Only the package is needed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lora_train.prepare.base import Plan, fit
from lora_train.prepare.detectors.base import Found, Missing

_CASCADE = "haarcascade_frontalface_default.xml"
_SURE = 5.0
"""The last stage's sum from which a face counts as certain; false detections mostly have less than 3."""
_NAMES = {"face": "Haar cascade", "body": "HOG", "segment": "GrabCut"}
_NEEDS = {"face": "CascadeClassifier", "body": "HOGDescriptor", "segment": "grabCut"}


def title(role: str, plan: Plan) -> str:
    """Its name with the version. Raises Missing."""
    try:
        import cv2
    except ImportError as error:
        raise Missing("OpenCV is not installed") from error
    if not hasattr(cv2, _NEEDS[role]) or (role == "face" and not _cascade_file(cv2).is_file()):
        raise Missing(f"OpenCV {cv2.__version__} has no {_NAMES[role]}")
    return f"OpenCV {cv2.__version__} {_NAMES[role]}"


def make(role: str, plan: Plan) -> Any:
    """The detector for a role."""
    return {"face": Haar, "body": Hog, "segment": GrabCut}[role]()


class Haar:
    """Viola and Jones 2001: frontal faces."""

    def __init__(self) -> None:
        import cv2

        self._cascade = cv2.CascadeClassifier(str(_cascade_file(cv2)))

    def faces(self, picture: Image.Image) -> list[Found]:
        """The score is the last stage's sum as a fraction of CERTAIN."""
        grey = np.asarray(picture.convert("L"))
        least = max(24, min(picture.size) // 20)
        boxes, _, sums = self._cascade.detectMultiScale3(
            grey, scaleFactor=1.1, minNeighbors=3, minSize=(least, least), outputRejectLevels=True
        )
        return [_found(box, picture, float(total) / _SURE) for box, total in zip(boxes, sums)]


class Hog:
    """Dalal and Triggs 2005: standing people, whole."""

    def __init__(self) -> None:
        import cv2

        self._hog = cv2.HOGDescriptor()
        self._hog.setSVMDetector(cv2.HOGDescriptor.getDefaultPeopleDetector())

    def body(self, picture: Image.Image) -> Found | None:
        """The score is the distance from the support vector machine's boundary, at most 1; it knows no parts."""
        pixels = np.ascontiguousarray(np.asarray(picture)[:, :, ::-1])
        boxes, sums = self._hog.detectMultiScale(pixels, winStride=(8, 8), padding=(16, 16), scale=1.05)
        found = [_found(box, picture, float(total)) for box, total in zip(boxes, np.ravel(sums))]
        return max(found, key=lambda body: body.score, default=None)


class GrabCut:
    """Rother et al. 2004, initialised with all but a narrow border as the foreground."""

    _BORDER = 0.05
    _ROUNDS = 4
    _SIDE = 320
    """It works on a copy with this longest side: its time grows with the pixels, and its edges are coarse anyway."""

    def mask(self, picture: Image.Image, threshold: float) -> Image.Image:
        """Its answer is yes or no, so the threshold has no effect. A picture in which it finds nothing stays whole."""
        import cv2

        pixels = np.ascontiguousarray(np.asarray(fit(picture, self._SIDE))[:, :, ::-1])
        height, width = pixels.shape[:2]
        x, y = max(1, int(width * self._BORDER)), max(1, int(height * self._BORDER))
        labels = np.zeros((height, width), np.uint8)
        models = np.zeros((1, 65)), np.zeros((1, 65))
        cv2.setRNGSeed(0)
        try:
            cv2.grabCut(
                pixels, labels, (x, y, width - 2 * x, height - 2 * y), *models, self._ROUNDS, cv2.GC_INIT_WITH_RECT
            )
        except cv2.error:  # too small, or of one colour
            return Image.new("L", picture.size, 255)
        foreground = (labels == cv2.GC_FGD) | (labels == cv2.GC_PR_FGD)
        mask = Image.fromarray(np.where(foreground, 255, 0).astype(np.uint8))
        return mask.resize(picture.size, Image.Resampling.BILINEAR)


def _cascade_file(cv2: Any) -> Path:
    return Path(getattr(getattr(cv2, "data", None), "haarcascades", "")) / _CASCADE


def _found(box: Any, picture: Image.Image, score: float) -> Found:
    left, top, width, height = (float(value) for value in box)
    return Found(
        left / picture.width,
        top / picture.height,
        (left + width) / picture.width,
        (top + height) / picture.height,
        min(1.0, max(0.0, score)),
    )

"""mediapipe's face detection, pose and selfie segmentation; versions up to 0.10.21 come with their models."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image

from lora_train.prepare.base import Plan
from lora_train.prepare.detectors.base import Found, Missing

_NAMES = {"face": "face detection", "body": "pose", "segment": "selfie segmentation"}
_STANDARD = 1
"""The face model for faces up to 5 m away (0: up to 2 m); also the pose model's size and the landscape segmenter."""


def title(role: str, plan: Plan) -> str:
    """Its name with the version. Raises Missing."""
    return f"mediapipe {_mediapipe().__version__} {_NAMES[role]}"


def make(role: str, plan: Plan) -> Any:
    """The detector for a role."""
    if role == "face":
        return Faces(plan.options.face_score)
    return Pose(plan.options.body_score, plan.options.body_visibility) if role == "body" else Selfie()


class Faces:
    """BlazeFace."""

    def __init__(self, least: float) -> None:
        # asked for less confidence than is needed, so that the report can show how much there was
        least = min(least, 0.3)
        self._model = _mediapipe().solutions.face_detection.FaceDetection(
            model_selection=_STANDARD, min_detection_confidence=least
        )

    def faces(self, picture: Image.Image) -> list[Found]:
        """All faces with at least the minimum confidence."""
        found = []
        for face in self._model.process(np.asarray(picture)).detections or ():
            box = face.location_data.relative_bounding_box
            found.append(Found(box.xmin, box.ymin, box.xmin + box.width, box.ymin + box.height, face.score[0]))
        return found


class Pose:
    """BlazePose."""

    def __init__(self, least: float, visibility: float) -> None:
        self._visibility = visibility
        self._model = _mediapipe().solutions.pose.Pose(
            static_image_mode=True, model_complexity=_STANDARD, min_detection_confidence=least
        )

    def body(self, picture: Image.Image) -> Found | None:
        """The box around the visible parts; the score is their mean visibility."""
        result = self._model.process(np.asarray(picture)).pose_landmarks
        if result is None:
            return None
        seen = [
            mark
            for mark in result.landmark
            if mark.visibility > self._visibility and 0 <= mark.x <= 1 and 0 <= mark.y <= 1
        ]
        if not seen:
            return None
        xs, ys = [mark.x for mark in seen], [mark.y for mark in seen]
        score = sum(mark.visibility for mark in seen) / len(seen)
        return Found(min(xs), min(ys), max(xs), max(ys), score, len(seen))


class Selfie:
    """MediaPipe's selfie segmentation."""

    def __init__(self) -> None:
        self._model = _mediapipe().solutions.selfie_segmentation.SelfieSegmentation(model_selection=_STANDARD)

    def mask(self, picture: Image.Image, threshold: float) -> Image.Image:
        """White where the probability of a person is above the threshold."""
        person = self._model.process(np.asarray(picture)).segmentation_mask
        return Image.fromarray(np.where(person > threshold, 255, 0).astype(np.uint8))


@lru_cache
def _mediapipe() -> Any:
    try:
        import mediapipe
    except Exception as error:  # also for a protobuf or numpy that it is incompatible with
        absent = isinstance(error, ModuleNotFoundError) and error.name == "mediapipe"
        raise Missing("mediapipe is not installed" if absent else f"mediapipe cannot be loaded ({error})") from error
    if not hasattr(mediapipe, "solutions"):
        raise Missing(f"mediapipe {mediapipe.__version__} comes without models (0.10.21 and older include them)")
    return mediapipe

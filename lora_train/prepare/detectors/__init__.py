"""Detectors of faces, bodies and people, chosen by what is installed.

Each module of the table has `title(role, plan)`, which raises Missing where it cannot fill a role, and `make(role,
plan)`. Adding a detector is a file here and its name in the lists below, the preferred ones first.
"""

from __future__ import annotations

import importlib
from dataclasses import replace
from typing import Any

from lora_train.prepare.base import Plan
from lora_train.prepare.detectors.base import BodyDetector, FaceDetector, Found, Missing, Segmenter

PREFERRED = {
    "face": ("retinaface", "mediapipe_people", "opencv"),
    "body": ("mediapipe_people", "opencv"),
    "segment": ("mediapipe_people", "opencv"),
}
WHAT = {"face": "Faces cannot be found", "body": "Bodies cannot be found", "segment": "Backgrounds cannot be replaced"}
INSTALL = 'Install one: pip install "opencv-python-headless<5", or pip install "mediapipe<=0.10.21" for better results.'


def choose(plan: Plan, roles: set[str]) -> tuple[Plan, list[str]]:
    """The plan with the best installed detector for each of `roles`, and a note for each that none can fill."""
    chosen, notes = {}, []
    for role in sorted(roles):
        lacking = []
        for name in PREFERRED[role]:
            try:
                _module(name).title(role, plan)
            except Missing as error:
                lacking.append(str(error))
                continue
            chosen[role] = name
            break
        else:
            notes.append(f"{WHAT[role]}: {'; '.join(lacking)}. {INSTALL}")
    return replace(plan, detectors=chosen), notes


def title_of(role: str, plan: Plan) -> str:
    """The name of the detector that fills a role, for the report."""
    return str(_module(plan.detectors[role]).title(role, plan))


def shared_memory(plan: Plan) -> bool:
    """Whether a chosen detector is so large that it should be loaded once rather than in every process."""
    return any(getattr(_module(name), "LARGE", False) for name in plan.detectors.values())


class Detectors:
    """The detectors of one worker, each made when it is first used."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._made: dict[str, Any] = {}

    def title(self, role: str) -> str:
        """The name of the detector that fills a role, for the report."""
        return title_of(role, self._plan)

    def face(self) -> FaceDetector:
        """The face detector."""
        return self._get("face")

    def body(self) -> BodyDetector:
        """The body detector."""
        return self._get("body")

    def segment(self) -> Segmenter:
        """The segmenter, which separates a person from the background."""
        return self._get("segment")

    def _get(self, role: str) -> Any:
        if role not in self._made:
            self._made[role] = _module(self._plan.detectors[role]).make(role, self._plan)
        return self._made[role]


def _module(name: str) -> Any:
    return importlib.import_module(f"{__name__}.{name}")


__all__ = [
    "BodyDetector",
    "Detectors",
    "FaceDetector",
    "Found",
    "Missing",
    "Segmenter",
    "choose",
    "shared_memory",
    "title_of",
]

"""The face in a picture, square, with some room around it."""

from __future__ import annotations

from lora_train.prepare.base import Box, NoView, View, fit
from lora_train.prepare.detectors import Found
from lora_train.prepare.opened import Opened
from lora_train.prepare.tools import Tools


def make(opened: Opened, tools: Tools) -> View:
    """Detect on a copy reduced to the target size, crop from the full-size picture.

    The box is a square whose side is the longer side of the detected box, plus `face_pad` of it on each
    side. Raises NoView where there is no face; a face cut off by the picture's edge is a problem of the view.
    """
    found = find_face(opened, tools)
    box = padded_square(found, opened.size, tools.plan.options.face_pad)
    problem = None
    if not inside(found):
        problem = "face out of frame", "a face was found, but the edge of the picture cuts it off"
    picture = opened.full().crop((box.left, box.top, box.right, box.bottom))
    return View("face", picture, box.size, box, tools.detectors.title("face"), found.score, problem)


def find_face(opened: Opened, tools: Tools) -> Found:
    """The face with the highest confidence, in fractions of the picture's sides. Raises NoView."""

    def detect() -> list[Found]:
        return tools.detectors.face().faces(fit(opened.at_least(tools.plan.target), tools.plan.target))

    faces: list[Found] = opened.once("faces", detect)
    title, needed = tools.detectors.title("face"), tools.plan.options.face_score
    if not faces:
        raise NoView("no face", f"no face was found ({title})")
    best = max(faces, key=lambda face: (face.score, face.width * face.height))
    if best.score < needed:
        raise NoView(
            "no face", f"perhaps a face ({title}), with a confidence of {best.score:.2f}; {needed:g} is needed"
        )
    return best


def inside(found: Found) -> bool:
    """Whether a detected box is entirely within the picture."""
    return found.left >= 0 and found.top >= 0 and found.right <= 1 and found.bottom <= 1


def padded_square(found: Found, size: tuple[int, int], pad: float) -> Box:
    """The square around `found` with padding, in pixels; moved into the picture where it crosses its
    edge, and no larger than its shorter side."""
    width, height = size
    longer = max(found.width * width, found.height * height)
    side = min(round(longer * (1 + 2 * pad)), width, height)
    left = round((found.left + found.right) / 2 * width - side / 2)
    top = round((found.top + found.bottom) / 2 * height - side / 2)
    left, top = min(max(left, 0), width - side), min(max(top, 0), height - side)
    return Box(left, top, left + side, top + side)

"""The person in a picture, from the head down to as far as is visible."""

from __future__ import annotations

from lora_train.prepare.base import Box, NoView, View, fit
from lora_train.prepare.detectors import Found
from lora_train.prepare.opened import Opened
from lora_train.prepare.operations.face import find_face, inside
from lora_train.prepare.tools import Tools

OPTIONS = ("face_score", "body_score", "body_pad", "body_visibility", "body_parts")


def make(opened: Opened, tools: Tools) -> View:
    """Detect on a copy reduced to the target size, crop from the full-size picture with padding.

    Raises NoView where no face is in frame, where no body is found, or where the detector counts parts
    and fewer than `body_parts` of them are visible.
    """
    options, title = tools.plan.options, tools.detectors.title("body")
    if not inside(find_face(opened, tools)):
        raise NoView("face out of frame", "the edge of the picture cuts off the face, so no body is searched for")
    body = tools.detectors.body().body(fit(opened.at_least(tools.plan.target), tools.plan.target))
    if body is None:
        raise NoView("no body", f"a face was found, but no body ({title})")
    if body.parts is None and body.score < options.body_score:
        raise NoView(
            "no body",
            f"perhaps a body ({title}), with a confidence of {body.score:.2f}; {options.body_score:g} is needed",
        )
    if body.parts is not None and body.parts < options.body_parts:
        raise NoView(
            "too few parts of the body",
            f"a body was found, but only {body.parts} parts of it are visible; {options.body_parts} are needed",
        )
    box = padded(body, opened.size, options.body_pad)
    picture = opened.full().crop((box.left, box.top, box.right, box.bottom))
    return View("body", picture, box.size, box, title, body.score)


def padded(found: Found, size: tuple[int, int], pad: float) -> Box:
    """The box around `found` with `pad` of its width or height on each side, within the picture."""
    width, height = size
    across, down = found.width * pad, found.height * pad
    left, top = round(max(0.0, found.left - across) * width), round(max(0.0, found.top - down) * height)
    right, bottom = round(min(1.0, found.right + across) * width), round(min(1.0, found.bottom + down) * height)
    return Box(left, top, max(right, left + 1), max(bottom, top + 1))

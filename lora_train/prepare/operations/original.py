"""The picture itself."""

from __future__ import annotations

from lora_train.prepare.base import View
from lora_train.prepare.opened import Opened
from lora_train.prepare.tools import Tools


def make(opened: Opened, tools: Tools) -> View:
    """The whole picture.

    Where it will be resized, a JPEG is decoded at twice the target or more (the margin of Pillow's
    own `thumbnail`): after resizing the eye sees no difference from a full decode.
    """
    plan = tools.plan
    reduced = plan.has("resize") and not plan.restore and max(opened.size) >= 2 * plan.target
    return View("original", opened.at_least(2 * plan.target) if reduced else opened.full(), opened.size)

"""The picture itself."""

from __future__ import annotations

from lora_train.prepare.base import View
from lora_train.prepare.opened import Opened
from lora_train.prepare.tools import Tools


def make(opened: Opened, tools: Tools) -> View:
    """The whole picture.

    Where it is going to be resized, a JPEG is decoded at twice the target or more (the margin of Pillow's
    own `thumbnail`): what is left after resizing cannot be told from a full decode by eye.
    """
    plan = tools.plan
    reduced = plan.has("resize") and not plan.restore and max(opened.size) >= 2 * plan.target
    return View("original", opened.at_least(2 * plan.target) if reduced else opened.full(), opened.size)

"""The longest side at the target, aspect kept."""

from __future__ import annotations

from lora_train.prepare.base import View, fit
from lora_train.prepare.tools import Tools


def apply(view: View, tools: Tools) -> None:
    """Resize the picture, and the mask with it."""
    view.picture = fit(view.picture, tools.plan.target, enlarge=True)
    if view.mask is not None:
        view.mask = view.mask.resize(view.picture.size)

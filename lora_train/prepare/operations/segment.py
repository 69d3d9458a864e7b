"""The background replaced by one colour; the mask is kept for a masked loss."""

from __future__ import annotations

from PIL import Image, ImageChops

from lora_train.prepare.base import View, fit
from lora_train.prepare.tools import Tools


def apply(view: View, tools: Tools) -> None:
    """Separate the person on a copy reduced to the target size, and keep only the person, who is white in the mask.

    Parts that were transparent before are black in the mask.
    """
    reduced = fit(view.picture, tools.plan.target)
    found = tools.detectors.segment().mask(reduced, tools.plan.options.segment_threshold)
    mask = found.resize(view.picture.size, Image.Resampling.BILINEAR)
    view.mask = mask if view.mask is None else ImageChops.multiply(mask, view.mask)
    empty = Image.new("RGB", view.picture.size, tools.plan.background)
    view.picture = Image.composite(view.picture, empty, view.mask)

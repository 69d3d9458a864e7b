"""Masks beside pictures, which are cropped and scaled as their pictures are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from PIL import Image

from lora_train.errors import Stopped
from lora_train.hashing import file_hash
from lora_train.pictures.opening import BrokenPicture, load_picture
from lora_train.prepare.base import Plan, View, fit
from lora_train.prepare.detectors import Detectors
from lora_train.prepare.operations import Edit, active
from lora_train.prepare.records import Store
from lora_train.prepare.report import Entry
from lora_train.prepare.tools import Tools
from lora_train.prepare.worker import write_picture

SEGMENTED = "segment"
"""The operation that makes its own masks, which fit the background it puts in."""


def take_masks(
    entries: list[Entry], plan: Plan, beside: Mapping[Path, Path], stopped: Callable[[], bool]
) -> tuple[dict[str, Path], list[str]]:
    """For each kept entry, by its key, the mask that a person put beside its picture, cropped and scaled like the
    result.

    Also returns notes on masks that cannot be read; their pictures count as a whole. Raises Stopped.
    """
    made: dict[str, Path] = {}
    notes: list[str] = []
    if SEGMENTED in active(Edit, plan):
        return made, notes
    for entry in entries:
        mask = beside.get(entry.path)
        if mask is None or entry.view is None or not entry.view.file:
            continue
        if stopped():
            raise Stopped
        try:
            file = Store(plan).folder(entry.record.content) / f"{entry.view.operation}.{file_hash(mask)[:16]}.mask.png"
            if not file.is_file():
                write_picture(file, _made(mask, entry, plan))
            made[entry.key] = file
        except (BrokenPicture, OSError) as error:
            notes.append(f"The mask {mask.name} cannot be read ({error}): its picture counts as a whole.")
    return made, list(dict.fromkeys(notes))


def _made(mask: Path, entry: Entry, plan: Plan) -> Image.Image:
    """The part of the mask in the view, after the edits, in the size of the finished picture."""
    view = entry.view
    assert view is not None
    image = load_picture(mask, background=(0, 0, 0)).convert("L")  # transparent parts of it do not count
    across, down = image.width / entry.record.size[0], image.height / entry.record.size[1]
    left, top, right, bottom = view.box or (0, 0, *entry.record.size)
    part = (left * across, top * down, right * across, bottom * down)
    shape = Image.new("1", (right - left, bottom - top))
    shape = fit(shape, 2 * plan.target) if "resize" in active(Edit, plan) else shape
    cut = image.resize(shape.size, Image.Resampling.BILINEAR, box=part)
    done = View(view.operation, cut.convert("RGB"), cut.size, mask=cut)
    for edit in active(Edit, plan).values():
        edit.apply(done, Tools(plan, Detectors(plan)))
    assert done.mask is not None
    with Image.open(Store(plan).folder(entry.record.content) / view.file) as finished:
        return done.mask if done.mask.size == finished.size else done.mask.resize(finished.size)

"""Regularisation pictures: of the class without the subject, so that the class stays what it was.

They are trained on with captions of their own and without the tag, their loss is multiplied by `prior_loss_weight`, and
they are repeated to match the pictures of the subject, as in sd-scripts (`DreamBoothDataset` in
`library/train_util.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from lora_train.config import DataOptions
from lora_train.data.scan import Manifest, Picture, counted, scan
from lora_train.links import MayRead, anywhere
from lora_train.pictures.finding import REGULARISATION
from lora_train.pictures.left_out import shown

REPEATS = 1
"""Repeats of a picture whose folder's name says none."""


def add_regularisation(manifest: Manifest, options: DataOptions, may_read: MayRead = anywhere) -> None:
    """Add the regularisation pictures: of `reg_data_dir`, else of the `reg` of a kohya project.

    Raises LoraTrainError where `reg_data_dir` holds none.
    """
    given = Path(options.reg_data_dir).expanduser() if options.reg_data_dir else None
    folders = [given] if given else manifest.reg_folders
    found: list[Picture] = []
    for folder in folders:
        there = scan(folder, "", REPEATS, may_read=may_read)
        found += [replace(picture, reg=True) for picture in there.pictures]
        manifest.rejected += there.rejected
        manifest.left_out.extend(there.left_out)
        manifest.notes += [f"Regularisation pictures: {note}" for note in there.notes]
    if not found:
        return
    if given:  # a flat folder below the others
        manifest.pictures = [one for one in manifest.pictures if not one.path.is_relative_to(given)]
    else:
        manifest.left_out.forget(REGULARISATION)
    names = ", ".join(f"{shown(folder.name)}/" for folder in folders)
    kept, note = balanced(manifest.trained, found)
    manifest.pictures += kept
    manifest.notes.append(f"{counted(len(kept), 'picture')} of {names} are used as regularisation pictures{note}.")


def balanced(trained: Sequence[Picture], reg: Sequence[Picture]) -> tuple[list[Picture], str]:
    """Regularisation pictures with repeats that match those of the subject's pictures together; and what there is to
    say about it.

    First each has its own repeats, then one more for each in turn, until there are as many; those behind the last one
    are not used. As in sd-scripts.
    """
    wanted, repeats, count = sum(picture.repeats for picture in trained), [0] * len(reg), 0
    first = True
    while reg and count < wanted:
        for number, picture in enumerate(reg):
            more = picture.repeats if first else 1
            repeats[number] += more
            count += more
            if count >= wanted:
                break
        first = False
    kept = [replace(picture, repeats=times) for picture, times in zip(reg, repeats) if times]
    unused = len(reg) - len(kept)
    note = f", {count} times in an epoch beside {wanted} of the subject"
    return kept, note + (f"; {unused} are not used, since there are more than those" if unused else "")

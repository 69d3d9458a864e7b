"""The parts that pictures play in a training, once they are found: how much a concept counts, what is held out for
validation, several sizes of the same picture, regularisation."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from lora_train.config import DataOptions
from lora_train.config.concepts import concept_weights
from lora_train.data.regularisation import add_regularisation
from lora_train.data.scan import Manifest, Picture, counted
from lora_train.errors import LoraTrainError, Problem
from lora_train.hashing import file_hash
from lora_train.links import MayRead, anywhere
from lora_train.pictures.left_out import SHOWN, shown


def assign_parts(manifest: Manifest, options: DataOptions, seed: int, may_read: MayRead = anywhere) -> None:
    """Give the pictures of `manifest` their parts, and add those of regularisation; `seed` is the run's. The options
    are sound (`config.validate`).

    Raises LoraTrainError for a concept that is not there, or a folder of regularisation pictures without any.
    """
    _weigh(manifest, options)
    _hold_out(manifest, options, seed)
    if not options.dataset_config:
        add_regularisation(manifest, options, may_read)
    _at_other_sizes(manifest, options)


def _weigh(manifest: Manifest, options: DataOptions) -> None:
    weights = concept_weights(options.concept_weights)
    known = {picture.concept for picture in manifest.pictures}
    if unknown := [name for name in weights if name not in known]:
        fix = f"There are: {', '.join(shown(name) for name in sorted(known))}."
        where = "data.concept_weights"
        raise LoraTrainError.of([Problem(f"there is no concept {name!r}.", where, fix) for name in unknown])
    manifest.pictures[:] = [
        replace(picture, weight=picture.weight * weights.get(picture.concept, 1.0)) for picture in manifest.pictures
    ]


def _hold_out(manifest: Manifest, options: DataOptions, seed: int) -> None:
    """Mark the pictures that are held out, and say which."""
    if not options.validation_split:
        return
    trained = manifest.trained
    own = options.validation_seed
    chosen = held_out(trained, options.validation_split, seed if own is None else own)
    if not chosen:
        manifest.notes.append("No picture is held out for validation: there are too few.")
        return
    manifest.pictures[:] = [replace(one, held_out=one.path in chosen) for one in manifest.pictures]
    names = ", ".join(shown(path.name) for path in sorted(chosen)[:SHOWN]) + (", ..." if len(chosen) > SHOWN else "")
    is_are = "is" if len(chosen) == 1 else "are"
    what = counted(len(chosen), "picture")
    manifest.notes.append(f"{what} of {len(trained)} {is_are} held out for validation: {names}.")


def _at_other_sizes(manifest: Manifest, options: DataOptions) -> None:
    """Add every picture that is trained on again at each further resolution."""
    for side in dict.fromkeys(options.more_resolutions):
        limits = {"min_bucket_reso": max(8, side // 2), "max_bucket_reso": 2 * side}
        limits = {name: limit for name, limit in limits.items() if getattr(options, name) is None}
        own = tuple({"resolution": side, "height": None, **limits}.items())
        once = [one for one in manifest.pictures if not one.again and not one.held_out]
        manifest.pictures += [replace(one, again=True, own=(*one.own, *own)) for one in once]


def held_out(pictures: Sequence[Picture], split: float, seed: int) -> set[Path]:
    """The pictures that are not trained on: a share of them (`split` below 1), or so many; at least one, and never all.

    A function of the pictures' contents and the seed, whatever folder they are in. Files of the same content are held
    out together, so that none of them is trained on.
    """
    groups: dict[str, list[Path]] = {}
    for path in dict.fromkeys(picture.path for picture in pictures):
        groups.setdefault(file_hash(path), []).append(path)
    order = sorted(groups, key=lambda content: hashlib.sha256(f"{seed}/{content}".encode()).digest())
    count = len(pictures)
    wanted = min(max(1, round(split * count) if split < 1 else round(split)), count - 1)
    chosen: set[Path] = set()
    for content in order:
        if len(chosen) + len(groups[content]) <= wanted:
            chosen |= {*groups[content]}
    return chosen

"""What a person should know about a training set before training: shapes, sizes and batches other than asked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from lora_train.pictures.left_out import SHOWN, shown

if TYPE_CHECKING:
    from lora_train.data.buckets import Placement
    from lora_train.data.items import Item
    from lora_train.data.training_set import Dataset

NAMED = 5
"""At most this many pictures are listed one by one."""
LITTLE = 0.5
"""Below this share of a picture in its bucket, a note says that the rest is cropped."""
ENLARGED, TINY = 2.0, 8.0
"""By how much a picture is enlarged that is much smaller than the resolution, and one that shows almost nothing."""


def remarks(dataset: Dataset, batch_size: int) -> list[str]:
    """Notes on a training set, one line each; none where all is as one would expect."""
    items = _once(dataset)
    thin = [item for item in items if _share(item.placement) < LITTLE]
    tiny = [item for item in items if item not in thin and _enlarged(item) >= TINY]
    small = [item for item in items if ENLARGED <= _enlarged(item) < TINY and item not in thin]
    found = _one_by_one(thin, lambda item: f"{_share(item.placement):.1%} of it is trained on, the rest is cropped")
    found += _one_by_one(tiny, lambda item: f"it is enlarged {_enlarged(item):.0f} times and shows almost nothing")
    if small:
        names = ", ".join(_name(item) for item in small[:SHOWN]) + (", ..." if len(small) > SHOWN else "")
        found.append(
            f"{len(small)} of {len(items)} pictures are much smaller than the resolution and are enlarged "
            f"{ENLARGED:.0f} times or more ({names})."
        )
    return [*found, *_copies(dataset), *_black_masks(dataset), *_small_batches(dataset, batch_size)]


def _once(dataset: Dataset) -> list[Item]:
    """Each picture at its first resolution."""
    return [item for item in dataset.items if not item.picture.again]


def _copies(dataset: Dataset) -> list[str]:
    """Files that are the same byte for byte: each is trained on, so the picture counts several times."""
    by_content: dict[str, list[str]] = {}
    items = _once(dataset)
    for item in items:
        if item.content:
            by_content.setdefault(item.content, []).append(shown(item.picture.path.name))
    same = [names for names in by_content.values() if len(names) > 1]
    if not same:
        return []
    count = sum(len(names) - 1 for names in same)
    copies = ", ".join(f"{names[1]} of {names[0]}" for names in same[:SHOWN]) + (", ..." if len(same) > SHOWN else "")
    return [
        f"{count} of {len(items)} pictures {'is a copy of another' if count == 1 else 'are copies of others'}, "
        f"and trained on like {'it' if count == 1 else 'them'} ({copies}): a picture that is there twice counts twice."
    ]


def _black_masks(dataset: Dataset) -> list[str]:
    """Masks that are black all over. Raises LoraTrainError when one cannot be read."""
    items = _once(dataset)
    black = [item for item in items if item.picture.mask and not dataset.mask(item, False).any()]
    if not black:
        return []
    names = ", ".join(shown(item.picture.path.name) for item in black[:SHOWN]) + (", ..." if len(black) > SHOWN else "")
    return [
        f"{len(black)} of {len(items)} pictures have a mask that is black all over, and count for nothing "
        f"({names}): white is what counts."
    ]


def _one_by_one(items: list[Item], what: Callable[[Item], str]) -> list[str]:
    found = [f"{_name(item)}: {what(item)}." for item in items[:NAMED]]
    return found + ([f"The same is true of {len(items) - NAMED} more."] if len(items) > NAMED else [])


def _small_batches(dataset: Dataset, batch_size: int) -> list[str]:
    """Buckets never share a batch, so the last one of each may be smaller."""
    own = any("train_batch_size" in dict(item.picture.own) for item in dataset.items)
    counts = dataset.bucket_counts()
    small = {bucket: count % batch_size for bucket, count in counts.items() if count % batch_size}
    if not small or own:
        return []
    batches = dataset.batches_per_epoch(batch_size)
    least = min(small, key=lambda bucket: small[bucket])
    return [
        f"{len(small)} of {batches} batches per epoch hold fewer than {batch_size} pictures: those of a batch are "
        f"all of one size (the smallest batch: {small[least]} at {least[0]} x {least[1]})."
    ]


def _share(placement: Placement) -> float:
    """The share of the picture that is in the bucket."""
    (width, height), (across, down) = placement.bucket, placement.scaled
    return width * height / (across * down)


def _enlarged(item: Item) -> float:
    return item.placement.scaled[0] / item.picture.width


def _name(item: Item) -> str:
    return f"{shown(item.picture.path.name)}, {item.picture.width} x {item.picture.height} pixels"

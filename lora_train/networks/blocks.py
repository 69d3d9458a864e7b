"""The denoiser's blocks by number, as the records of the families count them."""

from __future__ import annotations

from collections.abc import Iterable

from lora_train.records.families import all_blocks, is_text
from lora_train.records.family import Blocks

NONE = Blocks(lambda name: None, mid=0)
"""The layout of a model without blocks."""


def layout_of(names: Iterable[str]) -> Blocks:
    """The block layout of these names in files; for text encoders alone, which have no blocks, the oldest family's."""
    names = list(names)
    known = all_blocks()
    otherwise = known[-1] if all(map(is_text, names)) else NONE
    return next((one for one in known if any(one.number(name) is not None for name in names)), otherwise)


def block_of(name: str) -> int | None:
    """The block of a module by its name in files; None for text encoders and modules outside the blocks."""
    return next((found for one in all_blocks() if (found := one.number(name)) is not None), None)

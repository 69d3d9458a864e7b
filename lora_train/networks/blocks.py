"""The UNet's blocks by number, as kohya's block options count them.

SD 1.x and 2.x: 25 blocks, down 0 to 11, mid 12, up 13 to 24, by diffusers' names. SDXL: 23, embeddings 0, input 1 to
9, middle 10 to 12, output 13 to 21, out 22, by the original names that SDXL's LoRA files have.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

_SD_BLOCK = re.compile(r"_(down|up)_blocks_(\d+)_(resnets|attentions|downsamplers|upsamplers)_(\d+)_")
_XL_BLOCK = re.compile(r"_(input_blocks|middle_block|output_blocks)_(\d+)_")
_XL_FIRST = {"input_blocks": 1, "middle_block": 10, "output_blocks": 13}


@dataclass(frozen=True)
class Layout:
    """How many blocks a family has."""

    side: int
    """Down blocks, and as many up blocks."""
    mid: int
    ends: int
    """Blocks before the first and after the last that take part in lists of dimensions, but not in rates."""

    @property
    def total(self) -> int:
        """Length of a list with one value for each block."""
        return 2 * self.side + self.mid + 2 * self.ends


SD, XL = Layout(12, 1, 0), Layout(9, 3, 1)


def layout_of(names: Iterable[str]) -> Layout:
    """The layout that the names in files follow."""
    return XL if any(_XL_BLOCK.search(name) for name in names) else SD


def block_of(name: str) -> int | None:
    """The block of a module by its name in files; None for text encoders and what lies outside the blocks."""
    if not name.startswith("lora_unet_"):
        return None
    match = _XL_BLOCK.search(name)
    if match:
        return _XL_FIRST[match[1]] + int(match[2])
    match = _SD_BLOCK.search(name)
    if match:
        inner = 2 if match[3].endswith("samplers") else int(match[4])
        return (1 if match[1] == "down" else SD.side + 1) + 3 * int(match[2]) + inner
    return SD.side if "_mid_block_" in name else None

"""A picture that is decoded no larger and no more often than needed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

from lora_train.pictures.opening import load_picture, look_at


class Opened:
    """A picture file; `size` is its full size as displayed, `moving` whether other frames follow the first.

    All methods raise BrokenPicture.
    """

    def __init__(self, path: Path, background: tuple[int, int, int]) -> None:
        self.path = path
        width, height, self.moving = look_at(path)
        self.size = width, height
        self._background = background
        self._decoded: Image.Image | None = None
        self._once: dict[str, Any] = {}

    def at_least(self, side: int) -> Image.Image:
        """The picture in any size whose longest side is `side` or more (or the full size, when that is less)."""
        needed = min(side, max(self.size))
        if self._decoded is None or max(self._decoded.size) < needed:
            self._decoded = load_picture(self.path, side, self._background)
        return self._decoded

    def full(self) -> Image.Image:
        """The picture in full size."""
        return self.at_least(max(self.size))

    def once(self, what: str, find: Callable[[], Any]) -> Any:
        """What `find` returned at the first call for `what`: several operations need the same face."""
        if what not in self._once:
            self._once[what] = find()
        return self._once[what]

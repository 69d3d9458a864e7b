"""Steps whose loss was not read from the device yet.

Reading a number from a GPU waits until it has computed everything before it. The loop therefore reads a step's loss
when the next step is on its way, and whatever depends on it, such as saving, asks for all of them first.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from lora_train.data.scan import Picture
from lora_train.train.validation import Validation


@dataclass(frozen=True)
class Taken:
    """A step that is computed, or on its way."""

    step: int
    """Counted from 1."""
    epoch: int
    loss: torch.Tensor
    """The mean over its batches, a scalar on the device."""
    norm: torch.Tensor
    """Of the gradient before it was clipped."""
    learning_rates: dict[str, float]
    pictures: Sequence[Picture]
    losses: torch.Tensor
    """Of each picture, on the device."""
    times: torch.Tensor
    """Of each picture, on the device."""
    validation: Validation | None = None
    """Where it was measured after this step."""


@dataclass
class Unread:
    """Steps in their order; `read` receives each once, `late` steps after it was taken."""

    read: Callable[[Taken], None]
    late: int = 0
    _steps: deque[Taken] = field(default_factory=deque)

    def add(self, taken: Taken) -> None:
        """Add a step, and read those that are due."""
        self._steps.append(taken)
        while len(self._steps) > self.late:
            self.read(self._steps.popleft())

    def read_all(self) -> None:
        """Read all steps: before something is saved or shown, and at the end."""
        while self._steps:
            self.read(self._steps.popleft())

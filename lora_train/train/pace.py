"""The speed of a training."""

from __future__ import annotations

import time


class Pace:
    """The speed of the training, and the time of the last saved state."""

    def __init__(self, step: int) -> None:
        self._first, self._started = step, time.monotonic()
        self._saved = self._started

    def seconds_per_step(self, step: int) -> float:
        """Mean since the start or the resume."""
        return (time.monotonic() - self._started) / max(1, step - self._first)

    def due(self, minutes: float) -> bool:
        """Whether `minutes` have passed since this was last true; never for 0."""
        now = time.monotonic()
        if not minutes or now - self._saved < minutes * 60:
            return False
        self._saved = now
        return True

"""The loss of each picture over a training: which one is never learned, and which is learned by heart first."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

BANDS = 10
"""The loss depends on the time more than on anything else: each is compared with others of its tenth of the times."""
MEMORY = 0.98
"""Weight of the previous losses in a band's mean."""
LOOKS, PICTURES = 10, 5
"""Fewer looks at a picture, or fewer pictures, say nothing."""
FAR = 3.5
"""How many robust standard deviations from the others are remarkable (Iglewicz and Hoaglin 1993)."""
HIGH, LOW = 1.15, 0.85
"""And by how much at least."""


@dataclass
class PictureLosses:
    """Sums of each picture's loss, relative to the usual loss at its time, over the second half of a training."""

    bands: list[float] = field(default_factory=lambda: [0.0] * BANDS)
    sums: dict[str, list[float]] = field(default_factory=dict)
    """By picture: how often it was seen, and the sum of its relative losses."""

    def add(self, name: str, loss: float, time: float, late: bool) -> None:
        """A picture's loss, with its time as a share of all; it counts where the step is a `late` one."""
        band = min(BANDS - 1, int(time * BANDS))
        usual = self.bands[band] or loss
        self.bands[band] = MEMORY * usual + (1 - MEMORY) * loss
        if late and usual > 0:
            one = self.sums.setdefault(name, [0, 0.0])
            one[0] += 1
            one[1] += loss / usual

    def relative(self) -> dict[str, float]:
        """Each picture's mean loss relative to the others', of those that were seen often enough."""
        return {name: total / count for name, (count, total) in self.sums.items() if count >= LOOKS}

    def remarks(self) -> list[str]:
        """What a person should look at; empty where nothing stands out."""
        found = self.relative()
        if len(found) < PICTURES:
            return []
        middle = statistics.median(found.values())
        spread = 1.4826 * statistics.median(abs(value - middle) for value in found.values()) or 1e-9
        far = {name: value for name, value in found.items() if abs(value - middle) > FAR * spread}
        high = sorted((n for n, value in far.items() if value > HIGH * middle), key=lambda n: -far[n])
        low = sorted((n for n, value in far.items() if value < LOW * middle), key=lambda n: far[n])
        worst = [
            f"{Path(name).name} was learned worst: its loss stayed at {found[name] / middle:.2f} times that of the "
            "others. Does its caption fit, and is it like the others?"
            for name in high[:3]
        ]
        by_heart = [
            f"{Path(name).name} was learned by heart first: its loss fell to {found[name] / middle:.2f} times that of "
            "the others. Is it there several times, or much simpler?"
            for name in low[:3]
        ]
        return worst + by_heart

    def to_dict(self) -> dict[str, Any]:
        """As JSON data, for the state."""
        return {"bands": self.bands, "sums": self.sums}

    @classmethod
    def from_dict(cls, data: dict[str, Any] | None) -> PictureLosses:
        """The reverse; older states have none."""
        if not data:
            return cls()
        return cls([*map(float, data["bands"])], {name: [*values] for name, values in data["sums"].items()})

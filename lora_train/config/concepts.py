"""Weights of concepts as people write them: `sara=1`, `hat=0.5`."""

from __future__ import annotations

import math
from collections.abc import Iterable


def concept_weights(texts: Iterable[str]) -> dict[str, float]:
    """The factor on the loss of each concept. Raises ValueError that says what is wrong.

    >>> concept_weights(["sara woman=1", "hat = 0.5"])
    {'sara woman': 1.0, 'hat': 0.5}
    """
    weights: dict[str, float] = {}
    for text in texts:
        name, equals, value = text.rpartition("=")
        try:
            weight = float(value)
        except ValueError:
            weight = math.nan
        if not equals or not name.strip() or not math.isfinite(weight) or weight < 0:
            raise ValueError(f"{text!r} is not a concept and its weight")
        weights[name.strip()] = weight
    return weights

"""The dynamic range score: how close the brightness is to a good distribution.

After "Measuring and enhancing image quality attributes" (towardsdatascience.com, 234b0f250e10), as in
SD.Next: the cosine between the histogram of brightness and the density of the beta(2, 2) distribution.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from lora_train.config import PrepareOptions

BINS = 256
_WEIGHTS = (0.299, 0.587, 0.114)
_SQUARES = [weight * np.arange(256, dtype=np.float64) ** 2 for weight in _WEIGHTS]


def score(picture: Image.Image) -> float:
    """Cosine similarity of the histogram of sqrt(.299 R^2 + .587 G^2 + .114 B^2), as probabilities, and
    6 x (1 - x); 0 (all black or all white) to 1."""
    red, green, blue = np.moveaxis(np.asarray(picture.convert("RGB")), -1, 0)
    brightness = np.sqrt(_SQUARES[0][red] + _SQUARES[1][green] + _SQUARES[2][blue])
    bins = np.minimum((brightness * (BINS / 255)).astype(np.int64), BINS - 1)
    seen = np.bincount(bins.ravel(), minlength=BINS) / bins.size
    x = np.linspace(0, 1, BINS)
    wanted = 6 * x * (1 - x)
    return float(seen @ wanted / np.sqrt((seen @ seen) * (wanted @ wanted)))


def verdict(score: float, options: PrepareOptions) -> str:
    """Why a picture of this score is rejected; "" when it is not."""
    if score >= options.min_range:
        return ""
    return f"dynamic range {score:.2f} is below {options.min_range:g}: too dark, too bright or too flat"

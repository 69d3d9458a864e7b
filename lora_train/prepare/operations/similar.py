"""Similarity: the structural similarity (SSIM) of two pictures, grey and reduced to 64 x 64.

Wang et al. 2004, with scikit-image's defaults: a window of 7 x 7, sample covariance, K1 = 0.01, K2 = 0.03. A hash of
64 bits (whether each of 8 x 8 cells is brighter than their median) first selects the pictures worth comparing.
"""

from __future__ import annotations

import base64

import numpy as np
from PIL import Image

SIDE = 64
WINDOW = 7
FAR = 14
"""Pictures whose hashes differ in more bits are not compared. Unrelated pictures differ in 32 on average; of 2,346
altered copies with an SSIM above 0.8, 99 % differed in at most 4 bits."""
FLAT = 8.0
"""Standard deviation below which a picture is too flat for its hash to mean much: flat ones are always compared."""
_PIXELS = WINDOW * WINDOW
_C1, _C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
_BITS = np.array([bin(number).count("1") for number in range(1 << 16)], dtype=np.uint8)


def signature(picture: Image.Image) -> str:
    """The 64 x 64 grey picture, as text."""
    grey = picture.convert("L").resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    return base64.b64encode(grey.tobytes()).decode("ascii")


def mirrored(signature: str) -> str:
    """The signature of the mirrored picture."""
    return base64.b64encode(_grey(signature)[:, ::-1].tobytes()).decode("ascii")


class Kept:
    """The pictures kept so far, to compare others with.

    Comparing hashes is one XOR over an array, so the work per picture hardly grows with their number; SSIM is
    computed only for the few that are near.
    """

    def __init__(self) -> None:
        self._names: list[str] = []
        self._greys = np.empty((16, SIDE, SIDE), np.uint8)
        self._hashes = np.empty((16, 4), np.uint16)
        self._flat = np.empty(16, bool)

    def add(self, name: str, signature: str) -> None:
        """Keep a picture."""
        count = len(self._names)
        if count == len(self._greys):
            self._greys = np.concatenate([self._greys, np.empty_like(self._greys)])
            self._hashes = np.concatenate([self._hashes, np.empty_like(self._hashes)])
            self._flat = np.concatenate([self._flat, np.empty_like(self._flat)])
        self._greys[count] = grey = _grey(signature)
        self._hashes[count] = picture_hash(grey)
        self._flat[count] = grey.std() < FLAT
        self._names.append(name)

    def nearest(self, signature: str) -> tuple[float, str]:
        """The highest SSIM with a kept picture and that picture's name; (0, "") where none is near."""
        grey, count = _grey(signature), len(self._names)
        distance = _BITS[self._hashes[:count] ^ picture_hash(grey)].sum(axis=1)
        near = distance <= FAR
        if grey.std() < FLAT:
            near |= self._flat[:count]
        near = np.flatnonzero(near)
        best = 0.0, ""
        for start in range(0, len(near), 64):
            some = near[start : start + 64]
            scores = ssim(grey, self._greys[some])
            at = int(scores.argmax())
            if scores[at] > best[0]:
                best = float(scores[at]), self._names[some[at]]
        return best


def picture_hash(grey: np.ndarray) -> np.ndarray:
    """64 bits as 4 x uint16: which of 8 x 8 cells are brighter than their median."""
    fields = grey.reshape(8, SIDE // 8, 8, SIDE // 8).mean(axis=(1, 3)).ravel()
    return np.packbits(fields > np.median(fields)).view(np.uint16)


def ssim(one: np.ndarray, others: np.ndarray) -> np.ndarray:
    """SSIM of a picture (64, 64) with each of `others` (N, 64, 64), all uint8. Returns (N,)."""
    x, y = one[None].astype(np.float64), others.astype(np.float64)
    mean_x, mean_y = _window_mean(x), _window_mean(y)
    sample = _PIXELS / (_PIXELS - 1)
    variance_x = sample * (_window_mean(x * x) - mean_x * mean_x)
    variance_y = sample * (_window_mean(y * y) - mean_y * mean_y)
    covariance = sample * (_window_mean(x * y) - mean_x * mean_y)
    above = (2 * mean_x * mean_y + _C1) * (2 * covariance + _C2)
    below = (mean_x * mean_x + mean_y * mean_y + _C1) * (variance_x + variance_y + _C2)
    return np.mean(above / below, axis=(1, 2))


def reason(score: float, other: str) -> str:
    """Why a picture this similar to another is rejected."""
    return f"similar to {other}, which is kept ({score:.2f})"


def _grey(signature: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(signature), np.uint8).reshape(SIDE, SIDE)


def _window_mean(x: np.ndarray) -> np.ndarray:
    """Means over all 7 x 7 windows within the picture: (N, 64, 64) to (N, 58, 58), by sums of integers."""
    rows = np.zeros((len(x), SIDE + 1, SIDE))
    np.cumsum(x, axis=1, out=rows[:, 1:])
    x = rows[:, WINDOW:] - rows[:, :-WINDOW]
    columns = np.zeros((len(x), x.shape[1], SIDE + 1))
    np.cumsum(x, axis=2, out=columns[:, :, 1:])
    return (columns[:, :, WINDOW:] - columns[:, :, :-WINDOW]) / _PIXELS

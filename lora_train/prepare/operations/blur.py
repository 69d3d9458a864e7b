"""The blur score: how much fine detail there is.

After karthik9319/Blur-Detection, as in SD.Next: the lowest frequencies of the grey picture's spectrum, a
centred square of half-size 60, are zeroed; the score is the mean of the logarithm of the rest. As in
SD.Next a picture is rejected *above* the limit. Detail raises the score, so this rejects noise and over-sharpening
first: a limit of 1.5 to 1.8 is meant for pictures of 512 pixels.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from lora_train.config import PrepareOptions

HALF_SIZE = 60
_LEAST = 1e-12
"""The smallest value counted; a flat picture would have the logarithm of 0."""


def score(picture: Image.Image) -> float:
    """Mean of log |inverse FFT of the spectrum without its centre|.

    The zeroed square reaches from -60 to +59, so the result is not a real picture: its real part comes from
    the even part of the filter, its imaginary part from the odd part. Each takes half a complex inverse FFT.
    """
    grey = np.asarray(picture.convert("L"), dtype=np.float64)
    spectrum = np.fft.rfft2(grey)
    passed, mirrored = _high_pass(*grey.shape)
    real = np.fft.irfft2(spectrum * ((passed + mirrored) / 2), s=grey.shape)
    imaginary = np.fft.irfft2(spectrum * ((passed - mirrored) * -0.5j), s=grey.shape)
    power = np.maximum(real * real + imaginary * imaginary, _LEAST * _LEAST)
    return float(np.mean(np.log(power)) / 2)


def _high_pass(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """0 in the square, else 1: the filter over the half spectrum, and the same at the negated frequencies."""
    rows, rows_mirrored = _low(height)
    columns, columns_mirrored = (low[: width // 2 + 1] for low in _low(width))
    return 1.0 - np.outer(rows, columns), 1.0 - np.outer(rows_mirrored, columns_mirrored)


def _low(length: int) -> tuple[np.ndarray, np.ndarray]:
    """1 for frequencies -60 to 59 along one side, in the FFT's order; and the same at the negated frequencies."""
    number = np.arange(length)
    frequency = (number + length // 2) % length - length // 2
    low = ((frequency >= -HALF_SIZE) & (frequency < HALF_SIZE)).astype(np.float64)
    return low, low[-number % length]


def verdict(score: float, options: PrepareOptions) -> str:
    """Why a picture of this score is rejected; "" when it is not."""
    if score <= options.max_blur:
        return ""
    return f"blur score {score:.2f} is above the limit of {options.max_blur:g}"

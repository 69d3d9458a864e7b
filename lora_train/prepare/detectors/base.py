"""What a detector finds, and the interface of all detectors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from PIL import Image

ROLES = ("face", "body", "segment")


class Missing(Exception):
    """A detector cannot be used here; the message says what is lacking."""


@dataclass(frozen=True)
class Found:
    """A box in fractions of the picture's sides (beyond 0 to 1: out of frame), and its confidence (0 to 1)."""

    left: float
    top: float
    right: float
    bottom: float
    score: float
    parts: int | None = None
    """How many parts of a body are visible; None where the detector does not distinguish parts."""

    @property
    def width(self) -> float:
        """As a fraction of the picture's width."""
        return self.right - self.left

    @property
    def height(self) -> float:
        """As a fraction of the picture's height."""
        return self.bottom - self.top


class FaceDetector(Protocol):
    """Finds faces."""

    def faces(self, picture: Image.Image) -> list[Found]:
        """All faces in an RGB picture, in any order."""
        ...


class BodyDetector(Protocol):
    """Finds a person."""

    def body(self, picture: Image.Image) -> Found | None:
        """The person in an RGB picture detected with the highest confidence."""
        ...


class Segmenter(Protocol):
    """Separates a person, or what is in the foreground, from the background."""

    def mask(self, picture: Image.Image, threshold: float) -> Image.Image:
        """White (255) where the person is, in the size of the RGB picture, mode L."""
        ...

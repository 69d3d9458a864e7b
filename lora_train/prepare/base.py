"""The types shared by the parts of the preparation."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image, ImageColor

from lora_train.config import PrepareOptions
from lora_train.config.usual import DEFAULT_TARGET


@dataclass(frozen=True)
class Box:
    """A rectangle in pixels of the full-size picture; `right` and `bottom` lie just outside."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        return self.right - self.left, self.bottom - self.top

    def as_list(self) -> list[int]:
        """[left, top, right, bottom]."""
        return [self.left, self.top, self.right, self.bottom]


class NoView(Exception):
    """A picture does not show what an operation needs; `rule` in a word or two, the message in full."""

    def __init__(self, rule: str, reason: str) -> None:
        super().__init__(reason)
        self.rule = rule


@dataclass
class View:
    """One picture made from an input: the original, a face, a body."""

    operation: str
    picture: Image.Image
    size: tuple[int, int]
    """Size in the full-size original; `picture` may have been decoded smaller."""
    box: Box | None = None
    detector: str = ""
    confidence: float | None = None
    problem: tuple[str, str] | None = None
    """(rule, reason) when the view can be made but should not be used unless a person says so."""
    mask: Image.Image | None = None


@dataclass(frozen=True)
class Services:
    """What the host can do for the preparation; what is None is reported once and left out.

    They take any number of pictures and yield one result for each, in order: the host's methods with their
    other arguments filled in (pictures enlarged 2x, faces restored, a caption, a list of tags). Each is called
    once, so that one model is loaded at a time, and closed early when the person stops.
    """

    upscale: Callable[[Iterable[Image.Image]], Iterator[Image.Image]] | None = None
    restore: Callable[[Iterable[Image.Image]], Iterator[Image.Image]] | None = None
    caption: Callable[[Iterable[Image.Image]], Iterator[str]] | None = None
    tags: Callable[[Iterable[Image.Image]], Iterator[str]] | None = None
    weights: tuple[str, ...] = ()
    """Folders in which the host keeps facexlib's weights."""
    may_read: Callable[[Path], bool] = lambda path: True
    """Whether a link to this place may be followed."""


@dataclass(frozen=True)
class Plan:
    """What a worker needs to know; plain data, because it is sent to other processes."""

    options: PrepareOptions
    store: str
    upscale: bool = False
    restore: bool = False
    detectors: dict[str, str] = field(default_factory=dict)
    """Role ("face", "body", "segment") to the module that fills it."""
    weights: tuple[str, ...] = ()

    @property
    def target(self) -> int:
        """Longest side of a finished picture."""
        return self.options.target or DEFAULT_TARGET

    @property
    def min_size(self) -> int:
        """The minimum length of the longer side."""
        return self.target if self.options.min_size is None else self.options.min_size

    @property
    def background(self) -> tuple[int, int, int]:
        """The background colour."""
        red, green, blue = ImageColor.getrgb(self.options.background)[:3]
        return red, green, blue

    def has(self, operation: str) -> bool:
        """Whether an operation is on."""
        return operation in self.options.operations

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data."""
        return asdict(self) | {"options": self.options.to_dict()}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Plan:
        """The inverse of `to_dict`, also after a trip through JSON."""
        options: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in data["options"].items()}
        return cls(**{**data, "options": PrepareOptions.of_values(options), "weights": tuple(data["weights"])})


def fit(picture: Image.Image, target: int, enlarge: bool = False) -> Image.Image:
    """The picture with its longest side at `target`, aspect kept; a smaller one only when `enlarge` is set."""
    longest = max(picture.size)
    if longest == target or (longest < target and not enlarge):
        return picture
    size = max(1, round(picture.width * target / longest)), max(1, round(picture.height * target / longest))
    filter = Image.Resampling.LANCZOS if longest > target else Image.Resampling.BICUBIC
    return picture.resize(size, filter, reducing_gap=3.0)

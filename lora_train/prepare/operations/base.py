"""The kinds of operations; the package's `__init__.py` lists the operations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from PIL import Image

from lora_train.config import PrepareOptions
from lora_train.prepare.base import Plan, View
from lora_train.prepare.opened import Opened
from lora_train.prepare.tools import Tools


@dataclass(frozen=True)
class Source:
    """Makes a view of a picture, or raises NoView."""

    make: Callable[[Opened, Tools], View]
    options: tuple[str, ...] = ()
    """The options whose change makes its results be computed again."""
    roles: tuple[str, ...] = ()
    """The detectors that it needs."""


@dataclass(frozen=True)
class Check:
    """Scores a view, reduced to the target size; the verdict on a score is a reason to reject it, or ""."""

    score: Callable[[Image.Image], float]
    verdict: Callable[[float, PrepareOptions], str]


@dataclass(frozen=True)
class Comparison:
    """Compares views with one another, by a short signature of each."""

    signature: Callable[[Image.Image], str]


@dataclass(frozen=True)
class Service:
    """Something the host does, outside the workers; `wanted` decides by the size of the view."""

    wanted: Callable[[tuple[int, int], Plan], bool]
    options: tuple[str, ...] = ()


@dataclass(frozen=True)
class Edit:
    """Changes a view's picture (and mask)."""

    apply: Callable[[View, Tools], None]
    options: tuple[str, ...] = ()
    roles: tuple[str, ...] = ()


Operation = Source | Check | Comparison | Service | Edit

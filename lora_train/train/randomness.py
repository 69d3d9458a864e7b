"""Randomness by name and step: the same seed produces the same run, whatever was drawn elsewhere.

A generator is a function of (seed, name, position), so there is no state to save: a run that continues at step n draws
what it would have drawn without the stop.
"""

from __future__ import annotations

import hashlib
import random

import torch


class Randomness:
    """All generators of one run. They live on the CPU, so that every device draws the same."""

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def _number(self, name: str, position: int) -> int:
        digest = hashlib.sha256(f"{self._seed}/{name}/{position}".encode()).digest()
        return int.from_bytes(digest[:8], "little") >> 1

    def torch(self, name: str, position: int = 0) -> torch.Generator:
        """A torch generator for `name` at `position`."""
        return torch.Generator().manual_seed(self._number(name, position))

    def python(self, name: str, position: int = 0) -> random.Random:
        """A Python generator for `name` at `position`."""
        return random.Random(self._number(name, position))

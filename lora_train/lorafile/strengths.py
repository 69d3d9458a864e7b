"""A LoRA that is wanted, and how strongly."""

from __future__ import annotations

from dataclasses import dataclass

USUAL = 2.0
"""The highest strength that the WebUI's own sliders offer; more is worth a word: `:07` is 7."""


@dataclass(frozen=True)
class Wanted:
    """One network: its name, its strengths on text encoder and UNet, and the rank it is cut to."""

    name: str
    te: float
    unet: float
    dyn: int | None = None
    adapter: str = ""
    """The one to take of several adapters in the file; "": the first."""

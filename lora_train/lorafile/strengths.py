"""A requested LoRA with its strengths."""

from __future__ import annotations

from dataclasses import dataclass

USUAL = 2.0
"""The highest strength of the WebUI's own sliders; above it a note is given, since `:07` is 7."""


@dataclass(frozen=True)
class Wanted:
    """One network: its name, its strengths on text encoder and UNet, and the rank it is cut to."""

    name: str
    te: float
    unet: float
    dyn: int | None = None
    adapter: str = ""
    """The adapter to use if the file has several; "": the first."""

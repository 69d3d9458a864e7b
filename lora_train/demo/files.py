"""Where the demo's files are."""

from __future__ import annotations

from pathlib import Path

GUIDANCE = 4.0
"""The guidance its base draws best with: higher values make noisy pictures; rates are in docs/demo.md."""


def base_folder() -> Path:
    """The tiny base model, a diffusers folder."""
    return Path(__file__).parent / "base"


def pictures_folder() -> Path:
    """The mascot's pictures with their captions."""
    return Path(__file__).parent / "pictures"

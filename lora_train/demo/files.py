"""Where the demo's files are."""

from __future__ import annotations

from pathlib import Path


def base_folder() -> Path:
    """The tiny base model, a diffusers folder."""
    return Path(__file__).parent / "base"


def pictures_folder() -> Path:
    """The mascot's pictures with their captions."""
    return Path(__file__).parent / "pictures"

"""Which parts of a run are done, and how it ended."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Stages:
    """`process` prepares pictures and latents, `train` trains; `shutdown` stops the WebUI in between.

    Without `latents` none are computed: only existing ones are trained on.
    """

    process: bool = True
    latents: bool = True
    train: bool = True
    shutdown: bool = False


@dataclass(frozen=True)
class Result:
    """How a run ended. `path` is the LoRA, None when nothing was trained."""

    path: Path | None
    steps: int
    stopped: bool
    folder: Path

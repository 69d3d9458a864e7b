"""Where the numbers of each step go besides the run's folder: TensorBoard, and accelerate's trackers."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from lora_train.config import RunConfig
from lora_train.config.choices import TRACKERS
from lora_train.errors import Problem

PROJECT = "lora-train"


class Tracker(Protocol):
    """Takes the numbers of each step; may raise anything."""

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        """The numbers of one step."""
        ...

    def close(self) -> None:
        """The run has ended."""
        ...


class TensorBoard:
    """Event files for TensorBoard; those of steps after `step`, which were lost, are hidden there."""

    def __init__(self, folder: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer: Any = SummaryWriter(str(folder), purge_step=step + 1 if step else None)

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        """A scalar for each number."""
        for name, value in numbers.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Write what is held back."""
        self._writer.close()


class Accelerate:
    """One of accelerate's trackers, by its name there; the package has its own settings (keys, addresses)."""

    def __init__(self, name: str, config: RunConfig, folder: Path, run: str) -> None:
        kind = _of_accelerate()[name]
        place = {"logging_dir": str(folder)} if kind.requires_logging_directory else {}
        named = {"name": config.save.wandb_run_name or run} if name in ("wandb", "trackio") else {}
        self._tracker: Any = kind(config.save.log_tracker_name or PROJECT, **place, **named)
        if hasattr(self._tracker, "start"):
            self._tracker.start()
        self._tracker.store_init_configuration(_plain(config))

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        """All numbers at once."""
        self._tracker.log(dict(numbers), step=step)

    def close(self) -> None:
        """End the tracker's run."""
        self._tracker.finish()


def wanted(config: RunConfig) -> list[str]:
    """The trackers of this run: those that are asked for, and are installed where none is named."""
    name = config.save.log_with
    if name == "auto":
        return ["tensorboard"] if installed("tensorboard") else []
    if name == "all":
        return [
            one
            for one, package in TRACKERS.items()
            if package and installed(one) and (one == "tensorboard" or one in _of_accelerate())
        ]
    return [] if name == "none" else [name]


def tracker_problems(config: RunConfig) -> list[Problem]:
    """What is not installed that the trackers need."""
    name = config.save.log_with
    if not TRACKERS.get(name):
        return []
    if installed(name):
        return [] if name == "tensorboard" or name in _of_accelerate() else [_too_old(name)]
    what = f"{name} needs the package {TRACKERS[name]}, which is not installed."
    return [Problem(what, "save.log_with", f"Install it (pip install {TRACKERS[name]}), or choose another.")]


def _of_accelerate() -> dict[str, Any]:
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    return dict(LOGGER_TYPE_TO_CLASS)


def _too_old(name: str) -> Problem:
    what = f"the installed version of accelerate does not know {name}."
    return Problem(what, "save.log_with", "Update it (pip install -U accelerate), or choose another.")


def installed(name: str) -> bool:
    """Whether a tracker's package is there."""
    needed = [TRACKERS[name], *([] if name == "tensorboard" else ["accelerate"])]
    return all(importlib.util.find_spec(package) is not None for package in needed)


def start(name: str, config: RunConfig, folder: Path, step: int) -> Tracker:
    """The tracker called `name` for the run with this folder, which has done `step` steps. May raise anything."""
    place = Path(config.save.logging_dir).expanduser() / folder.name if config.save.logging_dir else folder / "logs"
    if name == "tensorboard":
        return TensorBoard(place, step)
    place.mkdir(parents=True, exist_ok=True)
    return Accelerate(name, config, place, folder.name)


def _plain(config: RunConfig) -> dict[str, Any]:
    """The options as trackers take them: one name each, with numbers and texts."""
    sections = {name: part for name, part in config.to_dict().items() if isinstance(part, dict)}
    return {
        f"{section}/{name}": value if isinstance(value, (int, float, str)) else str(value)
        for section, part in sections.items()
        for name, value in part.items()
    }

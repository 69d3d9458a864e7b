"""A run's numbers outside its event log: `log.csv` always, trackers where they are wanted."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from lora_train.config import RunConfig
from lora_train.runs.folder import Event, RunFolder
from lora_train.runs.step_log import StepLog, numbers_of
from lora_train.runs.trackers import Tracker, start, wanted

log = logging.getLogger("lora_train")


class Logs:
    """Listens to a run's events. A tracker that fails never ends the run: it is noted once, and left out."""

    def __init__(self, folder: RunFolder, config: RunConfig) -> None:
        self._folder, self._config = folder, config
        self._csv = StepLog(folder.path)
        self._trackers: dict[str, Tracker] | None = None
        self._step = 0

    def on_event(self, event: Event) -> None:
        """Log the numbers of a step; after a resume continue behind the last one that counts."""
        if event["kind"] == "resumed":
            self._step = int(event["step"])
            self._csv.resumed(self._step)
        if event["kind"] != "step":
            return
        numbers = numbers_of(event) | _memory()
        self._csv.step(numbers)
        if self._trackers is None:
            self._start()
        shown = {name: value for name, value in numbers.items() if name not in ("step", "time")}
        for name, tracker in [*(self._trackers or {}).items()]:
            try:
                tracker.log(shown, int(event["step"]))
            except Exception as error:
                self._failed(name, error)

    def close(self) -> None:
        """The run has ended."""
        for name, tracker in [*(self._trackers or {}).items()]:
            try:
                tracker.close()
            except Exception as error:
                self._failed(name, error)

    def _start(self) -> None:
        self._trackers = {}
        for name in wanted(self._config):
            try:
                self._trackers[name] = start(name, self._config, self._folder.path, self._step)
            except Exception as error:
                self._failed(name, error)

    def _failed(self, name: str, error: Exception) -> None:
        log.warning("the tracker %s failed", name, exc_info=error)
        if self._trackers is not None:
            self._trackers.pop(name, None)
        text = f"Nothing more is logged with {name}: {type(error).__name__}: {error}"
        self._folder.event("note", text=" ".join(text.split())[:500])


@contextmanager
def logging_steps(folder: RunFolder, config: RunConfig) -> Iterator[None]:
    """Within the block, the run's steps are logged besides its events."""
    logs, listen = Logs(folder, config), folder.listener

    def both(event: Event) -> None:
        if listen is not None:
            listen(event)
        logs.on_event(event)

    folder.listener = both
    try:
        yield
    finally:
        folder.listener = listen
        logs.close()


def _memory() -> dict[str, float]:
    """The most GPU memory that was in use so far, in GB; nothing where no GPU computes."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available() or not torch.cuda.is_initialized():
        return {}
    return {"memory_gb": round(torch.cuda.max_memory_allocated() / 1e9, 3)}

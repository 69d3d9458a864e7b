"""A run's folder: everything known about a run, for every interface of the program.

`run.json` (what was asked for, what was chosen, its state), `events.jsonl` (append-only), and the
folders `checkpoints` and `samples`.
"""

from __future__ import annotations

import json
import logging
import os
import re
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO
from uuid import uuid4

from lora_train.atomic import write_json
from lora_train.config import RunConfig
from lora_train.errors import LoraTrainError
from lora_train.jsons import to_json
from lora_train.lock import is_held
from lora_train.runs.stages import Stages

STATES = ("preparing", "training", "finished", "stopped", "failed")

Event = dict[str, Any]

log = logging.getLogger("lora_train")


@dataclass
class RunFolder:
    """One run's folder. `listener` receives every event as it is written."""

    path: Path
    listener: Callable[[Event], None] | None = None

    @classmethod
    def create(
        cls,
        runs: Path,
        config: RunConfig,
        listener: Callable[[Event], None] | None = None,
        stages: Stages = Stages(),
    ) -> RunFolder:
        """A new folder below `runs`, named by time and LoRA name. Raises LoraTrainError."""
        stamp = time.strftime("%Y%m%d-%H%M%S")
        name = re.sub(r"[^\w.-]+", "_", config.save.output_name)[:60]
        path = runs / f"{stamp}-{name}-{uuid4().hex[:4]}"
        try:
            for folder in (path, path / "checkpoints", path / "samples"):
                folder.mkdir(parents=True)
        except OSError as error:
            raise LoraTrainError(
                f"cannot create a folder for the run: {error.strerror}.", str(path), "Allow writing there."
            ) from error
        run = cls(path, listener)
        run.update(id=path.name, state="preparing", created=time.time(), config=config.to_dict(), stages=asdict(stages))
        return run

    @property
    def id(self) -> str:
        """The folder's name."""
        return self.path.name

    @property
    def state_path(self) -> Path:
        """Where the training's state is saved for a resume."""
        return self.path / "state" / "state.safetensors"

    @property
    def finished_state_path(self) -> Path:
        """Where the final state of a finished training is saved, from which it can be trained longer."""
        return self.path / "state" / "finished.safetensors"

    @property
    def saved_state(self) -> Path | None:
        """The newest saved state; None before the first."""
        return next((path for path in (self.state_path, self.finished_state_path) if path.is_file()), None)

    @property
    def going_on(self) -> bool:
        """Whether some process is executing this run now."""
        return is_held(self.path)

    @property
    def changed(self) -> float:
        """When `run.json` was written last, in seconds since 1970; 0 where that is not known."""
        try:
            return (self.path / "run.json").stat().st_mtime
        except OSError:
            return 0.0

    @property
    def can_resume(self) -> bool:
        """Whether it can be resumed: it has not finished and is not running. Without a saved state it starts again."""
        content = self.read()
        return isinstance(content.get("config"), dict) and content.get("state") != "finished" and not self.going_on

    def read(self) -> dict[str, Any]:
        """The content of `run.json`; empty when there is none yet."""
        try:
            content = json.loads((self.path / "run.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return content if isinstance(content, dict) else {}

    def update(self, **values: Any) -> None:
        """Change fields of `run.json`, atomically."""
        write_json(self.path / "run.json", self.read() | values)

    def set_state(self, state: str, **values: Any) -> None:
        """Change the state, with an event."""
        assert state in STATES
        self.update(state=state, **values)
        self.event("state", state=state)

    def event(self, kind: str, **values: Any) -> None:
        """Append an event to `events.jsonl` and call the listener; a full disk must not end a training."""
        event = {"time": round(time.time(), 3), "kind": kind, **values}
        line = to_json(event).encode("utf-8") + b"\n"
        try:
            with (self.path / "events.jsonl").open("ab+") as file:
                if self._ends_in_half_a_line(file):
                    line = b"\n" + line
                file.write(line)
        except OSError as error:
            log.warning("the event %r was not noted: %s", kind, error)
        if self.listener is not None:
            self.listener(event)

    def events(self, since: int = 0) -> list[Event]:
        """Events from number `since` on; a half-written last line is left for the next call.

        A line that a crash left half-written has the kind "damaged", so that the numbers do not change.
        """
        try:
            lines = (self.path / "events.jsonl").read_text(encoding="utf-8", errors="replace").split("\n")[:-1]
        except OSError:
            return []
        return [_event_of(line) for line in lines[since:]]

    @staticmethod
    def _ends_in_half_a_line(file: BinaryIO) -> bool:
        if not file.seek(0, os.SEEK_END):
            return False
        file.seek(-1, os.SEEK_END)
        return file.read(1) != b"\n"


def _event_of(line: str) -> Event:
    try:
        event = json.loads(line)
    except ValueError:
        event = None
    return event if isinstance(event, dict) and "kind" in event else {"time": 0.0, "kind": "damaged"}


def list_runs(runs: Path) -> list[RunFolder]:
    """All runs, the newest first."""
    if not runs.is_dir():
        return []
    found = [RunFolder(path) for path in runs.iterdir() if (path / "run.json").is_file()]
    return sorted(found, key=lambda run: run.id, reverse=True)

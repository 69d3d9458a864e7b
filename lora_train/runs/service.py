"""The background service: owns the thread that trains. Page, routes and command line share it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lora_train.config import RunConfig
from lora_train.datasets.service import Datasets
from lora_train.errors import LoraTrainError, Problem, Unknown
from lora_train.hosts.base import Host
from lora_train.runs.check import check_run, unpacked
from lora_train.runs.execute import execute
from lora_train.runs.folder import RunFolder, list_runs
from lora_train.runs.resuming import check_resume
from lora_train.runs.stages import Stages

log = logging.getLogger("lora_train")


class Service:
    """Runs one training at a time in a thread of its own."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        self._current: RunFolder | None = None
        self.datasets = Datasets(host, self.no_start)

    @property
    def runs_dir(self) -> Path:
        """Where all runs' folders are."""
        return self.host.data_dir() / "runs"

    def start(self, config: RunConfig, stages: Stages = Stages(), known: Sequence[Problem] = ()) -> str:
        """Check `config` and start it; returns the run's id at once. `known` are problems that the caller found.

        Raises LoraTrainError with all problems, or when a run is already in progress.
        """
        self._require_idle()
        config = unpacked(config, self.host)
        manifest = check_run(config, self.host, stages, known=known)
        with self._lock:
            self._require_idle()
            folder = RunFolder.create(self.runs_dir, config, stages=stages)
            self._begin(folder, config, manifest, stages)
        return folder.id

    def resume(self, run_id: str, steps: int | None = None) -> None:
        """Continue a run from its saved state, or again from its start; `steps` are more than before.

        Raises LoraTrainError as `start` does, or when it cannot be resumed.
        """
        self._require_idle()
        folder = self.run(run_id)
        config, manifest, stages = check_resume(folder, self.host, steps)
        with self._lock:
            self._require_idle()
            self._begin(folder, config, manifest, stages)

    @contextmanager
    def no_start(self) -> Iterator[RunFolder | None]:
        """Within the block no run starts. Yields the run in progress."""
        with self._lock:
            yield self._running()

    def _running(self) -> RunFolder | None:
        return self._elsewhere() if not self.busy else self._current

    def _require_idle(self) -> None:
        running = self._running()
        if running is not None:
            raise LoraTrainError("a training is already running.", running.id, "Wait for it, or stop it first.")
        if self.datasets.held:
            raise LoraTrainError(
                "pictures are being prepared on the Dataset page.", "", "Wait a moment, or stop it there first."
            )

    def _elsewhere(self) -> RunFolder | None:
        """A run that another process executes in the same folder."""
        return next((run for run in list_runs(self.runs_dir)[:20] if run.going_on), None)

    def _begin(self, folder: RunFolder, config: RunConfig, manifest: Any, stages: Stages) -> None:
        self._stop = threading.Event()
        self._current = folder
        self._thread = threading.Thread(
            target=self._work,
            args=(folder, config, manifest, self._stop, stages),
            name=f"lora-train {folder.id}",
            daemon=True,
        )
        self._thread.start()

    def _work(self, folder: RunFolder, config: RunConfig, manifest: Any, stop: threading.Event, stages: Stages) -> None:
        try:
            execute(folder, config, manifest, self.host, stop.is_set, stages)
        except LoraTrainError as error:  # recorded in the run's folder, where every interface reads it
            log.error("%s", error)

    @property
    def busy(self) -> bool:
        """Whether a run is in progress."""
        return self._thread is not None and self._thread.is_alive()

    def is_running(self, run_id: str) -> bool:
        """Whether this run is in progress in this process."""
        return self.busy and self._current is not None and self._current.id == run_id

    def state_of(self, run: RunFolder) -> str:
        """The run's actual state: "interrupted" where its process ended without recording an end."""
        state = str(run.read().get("state", ""))
        unfinished = state in ("preparing", "training")
        return "interrupted" if unfinished and not self.is_running(run.id) and not run.going_on else state

    def stop(self, run_id: str) -> bool:
        """Ask a run to stop after its current step and save; False when it is not running."""
        with self._lock:
            if not self.is_running(run_id):
                return False
            self._stop.set()
            return True

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for the current run to end; True when none is running any more."""
        thread = self._thread
        if thread is not None:
            thread.join(timeout)
        return not self.busy

    def run(self, run_id: str) -> RunFolder:
        """The folder of a run. Raises Unknown when there is no such run."""
        for run in list_runs(self.runs_dir):
            if run.id == run_id:
                return run
        raise Unknown("there is no such run.", run_id, "Check the list of runs.")

    def latest(self) -> RunFolder | None:
        """The run in progress, here or in another process, or else the one that was last active."""
        if self.busy:
            return self._current
        runs = list_runs(self.runs_dir)
        going_on = next((run for run in runs[:20] if run.going_on), None)
        return going_on or max(runs, key=lambda run: run.changed, default=None)

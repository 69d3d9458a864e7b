"""The background service: owns the thread that trains. Page, routes and command line share it."""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from typing import Any

from lora_train.config import RunConfig
from lora_train.errors import LoraTrainError
from lora_train.hosts.base import Host
from lora_train.runs.execute import Stages, check_run, execute
from lora_train.runs.folder import RunFolder, list_runs

log = logging.getLogger("lora_train")


class Service:
    """Runs one training at a time in a thread of its own."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        self._current: RunFolder | None = None

    @property
    def runs_dir(self) -> Path:
        """Where all runs' folders are."""
        return self.host.data_dir() / "runs"

    def start(self, config: RunConfig, stages: Stages = Stages()) -> str:
        """Check `config` and start it; returns the run's id at once.

        Raises LoraTrainError with all problems, or when a run is going on already.
        """
        manifest = check_run(config, stages)
        with self._lock:
            if self.busy:
                raise LoraTrainError("a training is running already.", "", "Wait for it, or stop it first.")
            folder = RunFolder.create(self.runs_dir, config)
            self._stop = threading.Event()
            self._current = folder
            self._thread = threading.Thread(
                target=self._work,
                args=(folder, config, manifest, self._stop, stages),
                name=f"lora-train {folder.id}",
                daemon=True,
            )
            self._thread.start()
        return folder.id

    def _work(self, folder: RunFolder, config: RunConfig, manifest: Any, stop: threading.Event, stages: Stages) -> None:
        try:
            execute(folder, config, manifest, self.host, stop.is_set, stages)
        except LoraTrainError as error:  # it is in the run's folder, where every face looks
            log.error("%s", error)

    @property
    def busy(self) -> bool:
        """Whether a run is going on."""
        return self._thread is not None and self._thread.is_alive()

    def is_running(self, run_id: str) -> bool:
        """Whether this very run is going on in this process."""
        return self.busy and self._current is not None and self._current.id == run_id

    def stop(self, run_id: str) -> bool:
        """Ask a run to stop after its present step and save; False when it is not running."""
        with self._lock:
            if not self.is_running(run_id):
                return False
            self._stop.set()
            return True

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for the present run to end; True when none is running any more."""
        thread = self._thread
        if thread is not None:
            thread.join(timeout)
        return not self.busy

    def run(self, run_id: str) -> RunFolder:
        """The folder of a run. Raises LoraTrainError when there is no such run."""
        for run in list_runs(self.runs_dir):
            if run.id == run_id:
                return run
        raise LoraTrainError("there is no such run.", run_id, "Look at the list of runs.")

    def latest(self) -> RunFolder | None:
        """The run that is going on, or else the newest."""
        if self._current is not None:
            return self._current
        runs = list_runs(self.runs_dir)
        return runs[0] if runs else None

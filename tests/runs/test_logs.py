"""log.csv, and trackers: what they get, what a resume does to them, and that none ends a run."""

from __future__ import annotations

import csv
import importlib.util
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lora_train.config import RunConfig
from lora_train.errors import LoraTrainError
from lora_train.hosts.standalone import StandaloneHost
from lora_train.runs import trackers
from lora_train.runs.check import npz_outside
from lora_train.runs.execute import resume_training, run_training
from lora_train.runs.folder import RunFolder
from lora_train.runs.step_log import FILE, StepLog
from tests.runs.test_resume import _stop_after

Make = Callable[..., RunConfig]


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / FILE).open(encoding="utf-8", newline="") as file:
        return [*csv.DictReader(file)]


def test_a_row_for_each_step_also_over_a_stop(make_config: Make, host: StandaloneHost) -> None:
    config = make_config(train={"max_train_steps": 5})
    listen, stopped = _stop_after(3)
    folder = run_training(config, host, listen, stopped).folder
    assert [row["step"] for row in rows(folder)] == ["1", "2", "3"]
    resume_training(RunFolder(folder), host)
    found, events = rows(folder), [one for one in RunFolder(folder).events() if one["kind"] == "step"]
    assert [int(row["step"]) for row in found] == [1, 2, 3, 4, 5]
    for row, event in zip(found, events):
        for name in ("epoch", "loss", "smoothed", "grad_norm", "pictures_per_second"):
            assert math.isclose(float(row[name]), event[name])
        assert {name: float(row[f"lr/{name}"]) for name in event["learning_rates"]} == event["learning_rates"]
    assert [*found[0]][:5] == ["step", "epoch", "loss", "smoothed", "grad_norm"]
    assert "seconds_left" not in found[0] and "of" not in found[0]


def test_lost_steps_have_no_row_after_a_resume(tmp_path: Path) -> None:
    """Killed at step 5, its last state was of step 3: 4 and 5 are done again, and the last row was cut in two."""
    log = StepLog(tmp_path)
    for step in range(1, 6):
        log.step({"step": step, "loss": step / 2})
    with (tmp_path / FILE).open("a") as file:
        file.write("6,0.")
    log = StepLog(tmp_path)
    log.resumed(3)
    assert [row["step"] for row in rows(tmp_path)] == ["1", "2", "3"]
    log.step({"step": 4, "loss": 9.0, "memory_gb": 1.5})
    assert rows(tmp_path)[2:] == [
        {"step": "3", "loss": "1.5", "memory_gb": ""},
        {"step": "4", "loss": "9.0", "memory_gb": "1.5"},
    ]
    StepLog(tmp_path).resumed(0)
    assert rows(tmp_path) == []


def test_a_half_written_row_of_a_killed_run_does_not_spoil_the_next(tmp_path: Path) -> None:
    StepLog(tmp_path).step({"step": 1, "loss": 1})
    with (tmp_path / FILE).open("a") as file:
        file.write("2,")
    log = StepLog(tmp_path)
    log.resumed(1)
    log.step({"step": 2, "loss": 3})
    assert rows(tmp_path) == [{"step": "1", "loss": "1"}, {"step": "2", "loss": "3"}]


class Recording:
    """A tracker that keeps what it gets."""

    def __init__(self, fails_at: int = 0) -> None:
        self.steps: list[int] = []
        self.closed, self._fails_at = 0, fails_at
        self.last: dict[str, float] = {}

    def log(self, numbers: dict[str, float], step: int) -> None:
        if step == self._fails_at:
            raise RuntimeError("the server\nis gone")
        self.steps.append(step)
        self.last = numbers

    def close(self) -> None:
        self.closed += 1


def test_a_tracker_gets_every_step_and_its_end(
    make_config: Make, host: StandaloneHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[tuple[str, int]] = []
    tracker = Recording()

    def start(name: str, config: RunConfig, folder: Path, step: int) -> Recording:
        made.append((name, step))
        return tracker

    monkeypatch.setattr("lora_train.runs.logs.start", start)
    monkeypatch.setattr("lora_train.runs.logs.wanted", lambda config: ["one"])
    listen, stopped = _stop_after(2)
    folder = run_training(make_config(), host, listen, stopped).folder
    resume_training(RunFolder(folder), host)
    assert (made, tracker.steps, tracker.closed) == ([("one", 0), ("one", 2)], [1, 2, 3], 2)
    assert "loss" in tracker.last and "step" not in tracker.last and "time" not in tracker.last


@pytest.mark.parametrize("when", ["at the start", "at a step", "at the end"])
def test_a_tracker_that_fails_is_noted_once_and_the_run_goes_on(
    make_config: Make, host: StandaloneHost, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    tracker, fine = Recording(2 if when == "at a step" else 0), Recording()

    def start(name: str, *_given: Any) -> Recording:
        if name == "fine":
            return fine
        if when == "at the start":
            raise OSError("no key")
        return tracker

    def close(self: Recording) -> None:
        raise OSError("no answer")

    if when == "at the end":
        monkeypatch.setattr(tracker, "close", lambda: close(tracker))
    monkeypatch.setattr("lora_train.runs.logs.start", start)
    monkeypatch.setattr("lora_train.runs.logs.wanted", lambda config: ["bad", "fine"])
    done = run_training(make_config(), host)
    notes = [
        e["text"] for e in RunFolder(done.folder).events() if e["kind"] == "note" and "logged with bad" in e["text"]
    ]
    assert done.steps == 3 and len(notes) == 1 and "\n" not in notes[0]
    assert fine.steps == [1, 2, 3] and fine.closed == 1
    assert tracker.steps == {"at the start": [], "at a step": [1], "at the end": [1, 2, 3]}[when], "it is left out"


def test_what_is_asked_for_and_not_installed_is_an_error_before_the_start(
    make_config: Make, host: StandaloneHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = {"accelerate"}
    monkeypatch.setattr(trackers, "_of_accelerate", lambda: {"wandb": None})
    monkeypatch.setattr(
        "lora_train.runs.trackers.importlib.util.find_spec", lambda name: name if name in there else None
    )
    for name in ("wandb", "tensorboard"):
        with pytest.raises(LoraTrainError, match=rf"needs the package {name}.*pip install {name}"):
            run_training(make_config(save={"log_with": name}), host)
    assert not (host.data_dir() / "runs").exists()
    assert trackers.wanted(make_config()) == [] == trackers.wanted(make_config(save={"log_with": "all"}))
    there |= {"wandb", "tensorboard", "mlflow"}
    assert trackers.wanted(make_config()) == ["tensorboard"]
    assert trackers.wanted(make_config(save={"log_with": "all"})) == ["tensorboard", "wandb"]
    assert trackers.wanted(make_config(save={"log_with": "none"})) == []
    (problem,) = trackers.tracker_problems(make_config(save={"log_with": "mlflow"}))
    assert "does not know mlflow" in str(problem)


def test_a_tracker_of_accelerate(make_config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its interface of all versions: made with its project, given the options, then the numbers, then ended."""
    seen: list[Any] = []

    class Kind:
        requires_logging_directory = True

        def __init__(self, project: str, **given: Any) -> None:
            seen.append((project, given))

        def store_init_configuration(self, values: dict[str, Any]) -> None:
            seen.append(values)

        def log(self, numbers: dict[str, float], step: int) -> None:
            seen.append((numbers, step))

        def finish(self) -> None:
            seen.append("end")

    monkeypatch.setattr(trackers, "_of_accelerate", lambda: {"wandb": Kind})
    config = make_config(save={"log_with": "wandb", "logging_dir": str(tmp_path / "logs"), "wandb_run_name": "first"})
    tracker = trackers.start("wandb", config, tmp_path / "run-1", 0)
    tracker.log({"loss": 0.5}, 3)
    tracker.close()
    assert seen[0] == ("lora-train", {"logging_dir": str(tmp_path / "logs" / "run-1"), "name": "first"})
    assert seen[1]["train/max_train_steps"] == 3 and all(isinstance(v, (int, float, str)) for v in seen[1].values())
    assert seen[2:] == [({"loss": 0.5}, 3), "end"]


@pytest.mark.skipif(importlib.util.find_spec("tensorboard") is None, reason="tensorboard is not installed")
def test_event_files_for_tensorboard(make_config: Make, host: StandaloneHost, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    listen, stopped = _stop_after(2)
    config = make_config(save={"logging_dir": str(tmp_path / "tb")})
    folder = run_training(config, host, listen, stopped).folder
    resume_training(RunFolder(folder), host)
    found = EventAccumulator(str(tmp_path / "tb" / folder.name))
    found.Reload()
    assert [one.step for one in found.Scalars("loss")] == [1, 2, 3]


def test_logs_are_not_written_outside_the_folders(make_config: Make, host: StandaloneHost, tmp_path: Path) -> None:
    """Of a run that is started at a page or over the routes."""
    inside = make_config(save={"logging_dir": str(host.data_dir() / "logs")})
    outside = make_config(save={"logging_dir": str(tmp_path / "elsewhere")})
    assert npz_outside(inside, host) == []
    assert [one.where for one in npz_outside(outside, host)] == ["save.logging_dir"]

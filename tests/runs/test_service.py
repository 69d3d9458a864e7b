from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from lora_train.config import RunConfig
from lora_train.errors import LoraTrainError
from lora_train.hosts.standalone import StandaloneHost
from lora_train.runs.folder import RunFolder, list_runs
from lora_train.runs.service import Service

Make = Callable[..., RunConfig]


def wait_for_step(run: RunFolder, step: int) -> None:
    """Wait until the run has done `step` steps."""
    deadline = time.monotonic() + 120
    while not any(e["kind"] == "step" and e["step"] >= step for e in run.events()):
        assert time.monotonic() < deadline and run.read()["state"] != "failed", run.events()
        time.sleep(0.05)


def test_start_watch_stop(make_config: Make, host: StandaloneHost) -> None:
    service = Service(host)
    run_id = service.start(make_config(train={"max_train_steps": 100_000}))
    with pytest.raises(LoraTrainError, match="running already"):
        service.start(make_config(save={"output_name": "other"}))
    wait_for_step(service.run(run_id), 1)
    assert service.busy and service.is_running(run_id)
    assert not service.stop("another")
    assert service.stop(run_id)
    assert service.wait(60)
    content = service.run(run_id).read()
    assert content["state"] == "stopped" and Path(content["result"]).is_file()
    assert not service.stop(run_id)


def test_bad_input_starts_nothing(make_config: Make, host: StandaloneHost) -> None:
    service = Service(host)
    with pytest.raises(LoraTrainError):
        service.start(make_config(train={"max_train_steps": 0}))
    assert not service.busy and list_runs(service.runs_dir) == [] and service.latest() is None


def test_a_failure_is_told_in_the_folder(make_config: Make, host: StandaloneHost) -> None:
    service = Service(host)
    run_id = service.start(make_config(train={"learning_rate": 10.0, "max_train_steps": 500, "max_grad_norm": 0.0}))
    assert service.wait(120)
    assert service.run(run_id).read()["state"] == "failed"
    assert service.run(run_id).events()[-1]["kind"] == "error"


def test_another_process_sees_the_same_runs(host: StandaloneHost, tmp_path: Path) -> None:
    run = RunFolder.create(host.data_dir() / "runs", RunConfig())
    run.event("note", text="hello")
    (run.path / "events.jsonl").open("a").write('{"half')
    found = Service(host).run(run.id)
    assert [e.get("text") for e in found.events()] == ["hello"]
    assert found.events(1) == []
    with pytest.raises(LoraTrainError, match="no such run"):
        Service(host).run("../" + run.id)

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lora_train.config import RunConfig
from lora_train.errors import LoraTrainError
from lora_train.hosts.standalone import StandaloneHost
from lora_train.runs import service as service_module
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
    with pytest.raises(LoraTrainError, match="already running"):
        service.start(make_config(save={"output_name": "other"}))
    wait_for_step(service.run(run_id), 1)
    assert service.busy and service.is_running(run_id)
    assert not service.stop("another")
    assert service.stop(run_id)
    assert service.wait(60)
    content = service.run(run_id).read()
    assert content["state"] == "stopped" and Path(content["result"]).is_file()
    assert not service.stop(run_id)


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[queue.Queue[str]]:
    """Runs that are started do nothing until the test ends; their ids are given."""
    ended, started = threading.Event(), queue.Queue[str]()

    def execute(folder: RunFolder, *_given: object) -> None:
        started.put(folder.id)
        ended.wait(60)

    monkeypatch.setattr(service_module, "execute", execute)
    yield started
    ended.set()


@pytest.mark.parametrize(("first", "second"), [("start", "start"), ("start", "resume"), ("resume", "start")])
def test_of_two_that_begin_at_once_one_runs(
    make_config: Make,
    host: StandaloneHost,
    monkeypatch: pytest.MonkeyPatch,
    held: queue.Queue[str],
    first: str,
    second: str,
) -> None:
    """Both have looked whether something runs, and checked what they want to do, before the first begins."""
    service, both, began = Service(host), threading.Barrier(2, timeout=60), threading.Event()
    stopped = RunFolder.create(service.runs_dir, make_config())
    stopped.set_state("stopped")

    def together(check: Callable[..., Any]) -> Callable[..., Any]:
        def checked(*given: Any, **named: Any) -> Any:
            found = check(*given, **named)
            both.wait()
            if threading.current_thread().name == "second":
                began.wait(60)
            return found

        return checked

    monkeypatch.setattr(service_module, "check_run", together(service_module.check_run))
    monkeypatch.setattr(service_module, "check_resume", together(service_module.check_resume))
    refused: list[str] = []

    def begin(what: str) -> None:
        try:
            if what == "resume":
                service.resume(stopped.id)
            else:
                service.start(make_config(save={"output_name": threading.current_thread().name}))
        except LoraTrainError as error:
            refused.append(f"{threading.current_thread().name}: {error}")
        began.set()

    threads = [
        threading.Thread(target=begin, args=(what,), name=name) for name, what in (("first", first), ("second", second))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(refused) == 1 and refused[0].startswith("second: ") and "already running" in refused[0]
    assert service.is_running(held.get(timeout=60)) and held.empty()
    assert len(list_runs(service.runs_dir)) == (1 if first == "resume" else 2)


def test_a_run_is_asked_for_by_its_whole_id(make_config: Make, host: StandaloneHost) -> None:
    service = Service(host)
    run = RunFolder.create(service.runs_dir, make_config())
    assert service.run(run.id) == run
    for part in (run.id[1:], run.id[-4:], run.id[:-1], "", "."):
        with pytest.raises(LoraTrainError, match="no such run"):
            service.run(part)


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

"""Stop and go on: the same bits as without; what cannot go on says so; never twice at once."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lora_train.config import RunConfig
from lora_train.errors import LoraTrainError
from lora_train.hosts.standalone import StandaloneHost
from lora_train.lock import RunLock, is_held
from lora_train.lorafile.reading import read_lora
from lora_train.runs.execute import resume_training, run_training
from lora_train.runs.folder import RunFolder
from lora_train.runs.resuming import KEPT_STATES, check_resume, forget_states
from lora_train.runs.service import Service
from lora_train.runs.stages import Stages
from tests.runs.test_service import wait_for_step

Make = Callable[..., RunConfig]


def _stop_after(steps: int) -> tuple[Callable[[dict[str, Any]], None], Callable[[], bool]]:
    seen: list[int] = []

    def listen(event: dict[str, Any]) -> None:
        if event["kind"] == "step":
            seen.append(event["step"])

    return listen, lambda: len(seen) >= steps


@pytest.mark.parametrize("accumulation", [1, 2])
def test_stop_and_resume_gives_the_same_bits(make_config: Make, tmp_path: Path, accumulation: int) -> None:
    """5 steps of 2 pictures out of 4 x 10: the stop after 3 lies inside an epoch, with momentum in the optimizer."""
    options = {
        "train": {"max_train_steps": 5, "gradient_accumulation_steps": accumulation, "noise_offset": 0.1},
        "data": {"shuffle_caption": True, "flip_aug": True, "caption_dropout_rate": 0.2, "repeats": 2},
    }
    whole = run_training(
        make_config(**options, save={"output_name": "whole", "save_precision": "fp32"}), StandaloneHost(tmp_path / "a")
    ).path
    host = StandaloneHost(tmp_path / "b")
    listen, stopped = _stop_after(3)
    config = make_config(**options, save={"output_name": "parts", "save_precision": "fp32"})
    first = run_training(config, host, listen, stopped)
    assert first.stopped and first.steps == 3
    folder = RunFolder(first.folder)
    assert folder.can_resume
    second = resume_training(folder, host)
    assert second.steps == 5 and not second.stopped and not folder.state_path.exists()
    assert whole is not None and second.path is not None
    one, other = read_lora(whole).tensors, read_lora(second.path).tensors
    assert one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)
    events = folder.events()
    assert [e["step"] for e in events if e["kind"] == "step"] == [1, 2, 3, 4, 5]
    assert [e["step"] for e in events if e["kind"] == "resumed"] == [3]


def test_a_finished_run_is_trained_longer_with_the_same_bits(make_config: Make, tmp_path: Path) -> None:
    """With a constant rate, 3 steps and 2 more are 5."""
    train = {"max_train_steps": 5, "lr_scheduler": "constant"}
    options: dict[str, Any] = {"train": train, "save": {"save_precision": "fp32"}}
    whole = run_training(make_config(**options), StandaloneHost(tmp_path / "a")).path
    assert whole is not None
    one = read_lora(whole).tensors
    whole.unlink()
    host = StandaloneHost(tmp_path / "b")
    options["train"]["max_train_steps"] = 3
    folder = RunFolder(run_training(make_config(**options), host).folder)
    assert not folder.can_resume
    second = resume_training(folder, host, steps=5)
    assert second.steps == 5 and not second.stopped and second.path == whole
    other = read_lora(whole)
    assert other.metadata["ss_steps"] == "5"
    assert one.keys() == other.tensors.keys() and all(torch.equal(one[k], other.tensors[k]) for k in one)
    assert [e["step"] for e in folder.events() if e["kind"] == "step"] == [1, 2, 3, 4, 5]
    content = folder.read()
    assert content["config"]["train"]["max_train_steps"] == content["resolved"]["train"]["max_train_steps"] == 5


def test_only_the_newest_finished_runs_keep_their_last_state(make_config: Make, tmp_path: Path) -> None:
    runs = [RunFolder.create(tmp_path / "runs", make_config()) for _ in range(KEPT_STATES + 2)]
    for age, run in enumerate(runs):
        run.finished_state_path.parent.mkdir()
        run.finished_state_path.touch()
        os.utime(run.finished_state_path, (1000 - age, 1000 - age))
    runs[-1].state_path.touch()  # of one that was stopped
    forget_states(tmp_path / "runs")
    assert [run.finished_state_path.exists() for run in runs] == [True] * KEPT_STATES + [False] * 2
    assert runs[-1].state_path.exists()
    runs[-2].update(state="finished", result="x.safetensors", steps_done=3)
    with pytest.raises(LoraTrainError, match="no longer kept.*network.network_weights x.safetensors"):
        check_resume(runs[-2], StandaloneHost(tmp_path), steps=9)


@pytest.mark.parametrize("state", ["preparing", "training", "failed", "stopped"])
def test_a_run_that_ended_before_its_first_saved_state_starts_again(
    make_config: Make, host: StandaloneHost, state: str
) -> None:
    folder = RunFolder.create(host.data_dir() / "runs", make_config(train={"max_train_steps": None}))
    folder.update(starts=1)
    folder.set_state(state)
    folder.event("step", step=1)
    assert folder.can_resume
    done = resume_training(folder, host, steps=2)
    assert done.steps == 2 and done.path is not None and folder.read()["state"] == "finished"
    events = folder.events()
    assert [e["step"] for e in events if e["kind"] == "resumed"] == [0]
    assert [e["step"] for e in events if e["kind"] == "step"] == [1, 1, 2]
    assert not folder.can_resume


def test_a_run_goes_on_with_its_own_stages(make_config: Make, host: StandaloneHost) -> None:
    """What was only to be prepared is not trained."""
    folder = RunFolder.create(host.data_dir() / "runs", make_config(), stages=Stages(train=False))
    folder.set_state("preparing")
    assert resume_training(folder, host).path is None


def test_more_steps_for_a_stopped_run(make_config: Make, host: StandaloneHost) -> None:
    listen, stopped = _stop_after(1)
    folder = RunFolder(run_training(make_config(), host, listen, stopped).folder)
    with pytest.raises(LoraTrainError, match="already done"):
        resume_training(folder, host, steps=1)
    assert resume_training(folder, host, steps=4).steps == 4


def test_a_damaged_run_is_told(host: StandaloneHost, make_config: Make) -> None:
    folder = RunFolder.create(host.data_dir() / "runs", make_config())
    (folder.path / "run.json").write_text('{"state": "training"')
    assert not folder.can_resume
    with pytest.raises(LoraTrainError, match=r"run's own file is damaged"):
        resume_training(folder, host)


def test_changed_pictures_are_noted(make_config: Make, host: StandaloneHost, pictures: Path) -> None:
    listen, stopped = _stop_after(1)
    first = run_training(make_config(), host, listen, stopped)
    (pictures / "picture-0.txt").write_text("another caption")
    folder = RunFolder(first.folder)
    resume_training(folder, host)
    assert any("have changed since" in e.get("text", "") for e in folder.events())


def test_what_cannot_go_on_says_so(make_config: Make, host: StandaloneHost) -> None:
    done = run_training(make_config(train={"max_train_steps": 1}), host)
    with pytest.raises(
        LoraTrainError, match=r"finished, after 1 steps.*network_weights .*sara.safetensors, .*--steps N"
    ):
        resume_training(RunFolder(done.folder), host)
    with pytest.raises(LoraTrainError, match=r"1 steps of this run are already done.*more than that: 2 or more"):
        resume_training(RunFolder(done.folder), host, steps=1)
    prepared = run_training(make_config(save={"output_name": "none"}), host, stages=Stages(train=False))
    with pytest.raises(LoraTrainError, match="prepared and did not train"):
        resume_training(RunFolder(prepared.folder), host, steps=9)
    listen, stopped = _stop_after(1)
    config = make_config(save={"output_name": "other"})
    folder = RunFolder(run_training(config, host, listen, stopped).folder)
    folder.state_path.write_bytes(folder.state_path.read_bytes()[:100])
    with pytest.raises(LoraTrainError, match="saved state cannot be read"):
        resume_training(folder, host)
    assert folder.read()["state"] == "failed"


def test_a_killed_run_is_interrupted_not_running(make_config: Make, host: StandaloneHost) -> None:
    """Another process executes the run, is killed, and the lock is gone with it."""
    folder = RunFolder.create(host.data_dir() / "runs", make_config())
    folder.set_state("training")
    code = (
        "import sys, time; from pathlib import Path; from lora_train.lock import RunLock\n"
        "lock = RunLock(Path(sys.argv[1])); lock.acquire(); print('held', flush=True); time.sleep(60)"
    )
    service = Service(host)
    with subprocess.Popen([sys.executable, "-c", code, str(folder.path)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == b"held\n"
        assert folder.going_on and service.state_of(folder) == "training"
        latest = service.latest()
        assert latest is not None and latest.id == folder.id
        with pytest.raises(LoraTrainError, match="already running"):
            service.start(make_config())
        process.kill()
    assert not folder.going_on and service.state_of(folder) == "interrupted"


def test_the_lock_is_never_held_twice(tmp_path: Path) -> None:
    assert not is_held(tmp_path)
    lock = RunLock(tmp_path)
    lock.acquire()
    assert is_held(tmp_path)
    with pytest.raises(LoraTrainError, match="already in progress"):
        RunLock(tmp_path).acquire()
    lock.release()
    assert not is_held(tmp_path)


def test_the_service_resumes(make_config: Make, host: StandaloneHost) -> None:
    service = Service(host)
    run_id = service.start(make_config(train={"max_train_steps": 100_000}))
    wait_for_step(service.run(run_id), 1)
    with pytest.raises(LoraTrainError, match="already running"):
        service.resume(run_id)
    service.stop(run_id)
    assert service.wait(60)
    newer = RunFolder.create(service.runs_dir, make_config(save={"output_name": "newer"}))
    newer.set_state("stopped")
    assert newer.id > run_id and service.latest() == newer
    assert service.wait(60)
    steps = service.run(run_id).read()["steps_done"]
    service.resume(run_id)
    wait_for_step(service.run(run_id), steps + 1)
    service.stop(run_id)
    assert service.wait(60) and service.run(run_id).read()["steps_done"] > steps
    latest = service.latest()
    assert latest is not None and latest.id == run_id  # the page shows what went on last, not the newest


def test_states_are_saved_on_the_way(make_config: Make, host: StandaloneHost, monkeypatch: pytest.MonkeyPatch) -> None:
    saved: list[tuple[str, int]] = []
    monkeypatch.setattr("lora_train.train.loop.Pace.due", lambda self, minutes: minutes == 2.0)
    monkeypatch.setattr(
        "lora_train.train.loop.Trainer.write_state", lambda self, path: saved.append((path.stem, self.steps_done))
    )
    run_training(make_config(), host)
    assert saved == [("state", 1), ("state", 2), ("state", 3), ("finished", 3)]


def test_a_full_disk_keeps_the_training_going_and_the_lora_is_rescued(
    make_config: Make, host: StandaloneHost, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import lora_train.atomic as atomic

    real = atomic.write_bytes

    def full(path: Path, data: bytes) -> None:
        if path.parent == tmp_path / "loras" or path.name == "state.safetensors":
            raise LoraTrainError("cannot write the file: No space left on device.", str(path), "Make room.")
        real(path, data)

    monkeypatch.setattr("lora_train.lorafile.writing.write_bytes", full)
    monkeypatch.setattr("lora_train.train.state.write_bytes", full)
    monkeypatch.setattr("lora_train.train.loop.Pace.due", lambda self, minutes: True)
    with pytest.raises(LoraTrainError, match="No space left.*saved here instead") as caught:
        run_training(make_config(), host)
    rescued = Path(caught.value.problems[0].fix.split(": ", 1)[1])
    assert read_lora(rescued).metadata["ss_steps"] == "3"


def test_another_lora_that_has_the_name_now_is_not_replaced(make_config: Make, host: StandaloneHost) -> None:
    listen, stopped = _stop_after(1)
    first = run_training(make_config(), host, listen, stopped)
    assert first.path is not None
    other = run_training(make_config(save={"output_name": "other"}, train={"seed": 7}), host).path
    assert other is not None
    shutil.copy(other, first.path)
    with pytest.raises(LoraTrainError, match="exists already"):
        resume_training(RunFolder(first.folder), host)
    assert first.path.read_bytes() == other.read_bytes()


def test_a_resume_has_the_threads_of_before(make_config: Make, tmp_path: Path) -> None:
    """Sums in another order have other bits. Outside the run torch's number is what it was."""
    host, before = StandaloneHost(tmp_path / "data"), torch.get_num_threads()
    listen, stopped = _stop_after(2)
    folder = RunFolder(run_training(make_config(train={"max_train_steps": 4}), host, listen, stopped).folder)
    assert folder.read()["threads"] == before
    other = 2 if before == 1 else 1
    folder.update(threads=other)
    seen = set[int]()
    resume_training(RunFolder(folder.path, lambda event: seen.add(torch.get_num_threads())), host)
    assert other in seen and torch.get_num_threads() == before

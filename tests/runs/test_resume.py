"""Stop and go on: the same bits as without; what cannot go on says so; never twice at once."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lora_train.config import RunConfig
from lora_train.errors import LoraTrainError
from lora_train.hosts.standalone import StandaloneHost
from lora_train.lorafile.reading import read_lora
from lora_train.runs.execute import resume_training, run_training
from lora_train.runs.folder import RunFolder
from lora_train.runs.lock import RunLock, is_held
from lora_train.runs.service import Service

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


def test_changed_pictures_are_noted(make_config: Make, host: StandaloneHost, pictures: Path) -> None:
    listen, stopped = _stop_after(1)
    first = run_training(make_config(), host, listen, stopped)
    (pictures / "picture-0.txt").write_text("another caption")
    folder = RunFolder(first.folder)
    resume_training(folder, host)
    assert any("have changed meanwhile" in e.get("text", "") for e in folder.events())


def test_what_cannot_go_on_says_so(make_config: Make, host: StandaloneHost) -> None:
    done = run_training(make_config(train={"max_train_steps": 1}), host)
    with pytest.raises(LoraTrainError, match="no saved state"):
        resume_training(RunFolder(done.folder), host)
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
        "import sys, time; from pathlib import Path; from lora_train.runs.lock import RunLock\n"
        "lock = RunLock(Path(sys.argv[1])); lock.acquire(); print('held', flush=True); time.sleep(60)"
    )
    service = Service(host)
    with subprocess.Popen([sys.executable, "-c", code, str(folder.path)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == b"held\n"
        assert folder.going_on and service.state_of(folder) == "training"
        latest = service.latest()
        assert latest is not None and latest.id == folder.id
        with pytest.raises(LoraTrainError, match="running already"):
            service.start(make_config())
        process.kill()
    assert not folder.going_on and service.state_of(folder) == "interrupted"


def test_the_lock_is_never_held_twice(tmp_path: Path) -> None:
    assert not is_held(tmp_path)
    lock = RunLock(tmp_path)
    lock.acquire()
    assert is_held(tmp_path)
    with pytest.raises(LoraTrainError, match="going on already"):
        RunLock(tmp_path).acquire()
    lock.release()
    assert not is_held(tmp_path)


def test_the_service_resumes(make_config: Make, host: StandaloneHost) -> None:
    service = Service(host)
    run_id = service.start(make_config(train={"max_train_steps": 100_000}))
    while not [e for e in service.run(run_id).events() if e["kind"] == "step"]:
        threading.Event().wait(0.05)
    with pytest.raises(LoraTrainError, match="running already"):
        service.resume(run_id)
    service.stop(run_id)
    assert service.wait(60)
    steps = service.run(run_id).read()["steps_done"]
    service.resume(run_id)
    while not [e for e in service.run(run_id).events() if e["kind"] == "step" and e["step"] > steps]:
        threading.Event().wait(0.05)
    service.stop(run_id)
    assert service.wait(60) and service.run(run_id).read()["steps_done"] > steps


def test_states_are_saved_on_the_way(make_config: Make, host: StandaloneHost, monkeypatch: pytest.MonkeyPatch) -> None:
    saved: list[int] = []
    monkeypatch.setattr("lora_train.train.loop.Pace.due", lambda self, minutes: minutes == 2.0)
    monkeypatch.setattr("lora_train.train.loop.Trainer.write_state", lambda self, path: saved.append(self.steps_done))
    run_training(make_config(), host)
    assert saved == [1, 2, 3]


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

"""A run's folder outlives crashes and full disks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from lora_train.config import RunConfig
from lora_train.errors import LoraTrainError
from lora_train.lock import RunLock
from lora_train.runs.folder import RunFolder


@pytest.fixture
def folder(tmp_path: Path, make_config: Callable[..., RunConfig]) -> RunFolder:
    return RunFolder.create(tmp_path / "runs", make_config())


def test_a_line_that_a_crash_left_half_written(folder: RunFolder) -> None:
    folder.event("note", text="one")
    with (folder.path / "events.jsonl").open("a") as file:
        file.write('{"time": 1, "kind": "st')
    assert [event["kind"] for event in folder.events()] == ["note"]
    folder.event("note", text="two")
    assert [event["kind"] for event in folder.events()] == ["note", "damaged", "note"]
    assert folder.events(2)[0]["text"] == "two"


def test_a_full_disk_is_no_reason_to_stop(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[str] = []
    folder.listener = lambda event: heard.append(event["kind"])

    def full(*_args: object, **_named: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "open", full)
    folder.event("step", step=1)
    assert heard == ["step"]


def test_a_failing_disk_leaves_what_was_known(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    before = folder.read()

    def full(*_args: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.replace", full)
        with pytest.raises(LoraTrainError, match="No space left"):
            folder.update(state="training")
    assert folder.read() == before and not list(folder.path.glob(".*")), "a rest is left behind"
    folder.update(state="training", steps=3)
    assert folder.read() == before | {"state": "training", "steps": 3}
    folder.update(steps=4)
    assert folder.read()["steps"] == 4


def test_what_goes_on_cannot_be_resumed(folder: RunFolder) -> None:
    for state, can in (("preparing", True), ("training", True), ("stopped", True), ("failed", True)):
        folder.set_state(state)
        assert folder.can_resume is can
        with RunLock(folder.path):
            assert folder.going_on and not folder.can_resume
    folder.set_state("finished")
    assert not folder.can_resume


def test_a_name_that_is_no_text(folder: RunFolder) -> None:
    folder.event("note", text="caf\udce9")
    assert folder.events()[0]["text"] == "caf\udce9"

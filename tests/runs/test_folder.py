"""A run's folder outlives crashes and full disks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from lora_train.config import RunConfig
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


def test_a_name_that_is_no_text(folder: RunFolder) -> None:
    folder.event("note", text="caf\udce9")
    assert folder.events()[0]["text"] == "caf\udce9"

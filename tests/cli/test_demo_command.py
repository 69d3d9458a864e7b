"""The demo as a person meets it: what it says, what it leaves, and that it goes on wherever it was stopped."""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import lora_train.cli.demo_command as command
from lora_train.cli import main
from lora_train.config import RunConfig
from lora_train.console import own_command
from lora_train.errors import LoraTrainError
from lora_train.lorafile.reading import file_metadata
from lora_train.lorafile.writing import serialise
from lora_train.runs.demo import COMMENT, NAME, demo_config
from lora_train.runs.folder import list_runs
from lora_train.runs.terminal import ProgressBar
from tests.conftest import draw_pictures

STEPS = 3


@pytest.fixture(autouse=True)
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A demo of a few steps on two pictures that draws a sheet of one colour, its data in the test's own folder."""

    def config(out: Path) -> RunConfig:
        whole = demo_config(out)
        train = replace(whole.train, max_train_steps=STEPS, device="cpu", preserve=0.0)
        return replace(whole, train=train, network=replace(whole.network, network_dim=2, conv_dim=0))

    def sheet(folder: Path, name: str, progress: Callable[[int, int], None]) -> Image.Image:
        assert (folder / f"{name}.safetensors").is_file()
        for done in (1, 2, 3, 4):
            progress(done, 4)
        return Image.new("RGB", (8, 8))

    monkeypatch.setenv("LORA_TRAIN_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(command, "demo_config", config)
    monkeypatch.setattr(command, "write_pictures", lambda folder: draw_pictures(folder / f"4_{NAME}", 2))
    monkeypatch.setattr(command, "before_and_after", sheet)


def stop_at(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Press Ctrl-C when the first event of this kind is shown."""
    plain, pressed = ProgressBar.on_event, list[str]()

    def on_event(bar: ProgressBar, event: dict[str, Any]) -> None:
        plain(bar, event)
        if event["kind"] == kind and not pressed:
            pressed.append(kind)
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(ProgressBar, "on_event", on_event)


def test_it_ends_with_the_sheet_and_one_command_and_the_lora_is_where_it_is_looked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(["demo", "--out", str(out)]) == 0
    said = capsys.readouterr()
    lora = tmp_path / "data" / "loras" / f"{NAME}.safetensors"
    assert lora.is_file() and str(lora) in said.out
    assert f"Training {STEPS}/{STEPS}" in said.err and "Drawing 4/4  0:00 left" in said.err
    *_, sheet, nothing, last = said.out.splitlines()
    assert sheet.split()[-1] == str(out / "contact-sheet.png") and (out / "contact-sheet.png").is_file()
    assert not nothing and last.endswith(f":  {own_command('ui')}") and (out / "loss.png").is_file()


def test_a_second_time_says_what_becomes_of_the_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, lora = tmp_path / "out", tmp_path / "data" / "loras" / f"{NAME}.safetensors"
    assert command.run_demo(out) == 0
    assert "is replaced" not in capsys.readouterr().out
    session = file_metadata(lora)["ss_session_id"]
    assert command.run_demo(out) == 0
    assert f"The previous demo's LoRA, {lora}, is replaced" in capsys.readouterr().out
    assert file_metadata(lora)["ss_session_id"] != session


@pytest.mark.parametrize("kind", ["prepare", "step"])
def test_stopped_while_preparing_or_training_the_same_command_goes_on(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stop_at(kind, monkeypatch)
    arguments = ["demo", "--out", str(tmp_path / "out")]
    assert main(arguments) == 128 + signal.SIGINT
    said = capsys.readouterr().out
    assert said.splitlines()[-1] == f"To continue:  {own_command(*arguments)}"
    (run,) = list_runs(tmp_path / "data" / "runs")
    assert run.read()["state"] == "stopped"
    assert main(arguments) == 0
    assert "Continuing the training that was stopped" in capsys.readouterr().out
    (run,) = list_runs(tmp_path / "data" / "runs")
    assert run.read()["state"] == "finished" and run.read()["steps_done"] == STEPS
    assert (tmp_path / "out" / "contact-sheet.png").is_file()


def test_its_stopped_training_is_found_by_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stop_at("step", monkeypatch)
    assert command.run_demo(tmp_path / "out") != 0
    assert main(["resume"]) == 0
    capsys.readouterr()
    assert command.run_demo(tmp_path / "out") == 0
    assert "already trained" in capsys.readouterr().out and len(list_runs(tmp_path / "data" / "runs")) == 1


def test_stopped_while_drawing_the_same_command_draws_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def pressed(*given: Any) -> Any:
        raise KeyboardInterrupt

    out = tmp_path / "out"
    with monkeypatch.context() as drawing:
        drawing.setattr(command, "before_and_after", pressed)
        assert command.run_demo(out) == 130
    said = capsys.readouterr()
    assert said.err.splitlines()[-1] == f"Stopped. To continue the demo:  {own_command('demo', '--out', str(out))}"
    assert not (out / "contact-sheet.png").exists()
    assert command.run_demo(out) == 0
    assert "already trained" in capsys.readouterr().out and (out / "contact-sheet.png").is_file()
    assert len(list_runs(tmp_path / "data" / "runs")) == 1


def test_a_persons_lora_of_that_name_stays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    theirs = tmp_path / "data" / "loras" / f"{NAME}.safetensors"
    theirs.parent.mkdir(parents=True)
    theirs.write_bytes(serialise({"x": torch.tensor(1.0)}, {}))
    before = theirs.read_bytes()
    for _ in range(2):
        assert command.run_demo(tmp_path / "out") == 0
        assert f"is your own LoRA and stays; the demo's is called {NAME}-demo." in capsys.readouterr().out
    assert theirs.read_bytes() == before
    assert file_metadata(theirs.with_stem(f"{NAME}-demo"))["ss_training_comment"] == COMMENT


def test_a_persons_pictures_are_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "loss.png").write_bytes(b"mine")
    with pytest.raises(LoraTrainError, match="that no demo made"):
        command.run_demo(tmp_path)
    assert (tmp_path / "loss.png").read_bytes() == b"mine" and not (tmp_path / "pictures").exists()


def test_a_sheet_that_cannot_be_drawn_is_said_and_drawn_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(*given: Any) -> Any:
        raise LoraTrainError("no room.")

    with monkeypatch.context() as drawing:
        drawing.setattr(command, "before_and_after", fails)
        assert command.run_demo(tmp_path / "out") == 0
    assert "not drawn: no room." in capsys.readouterr().out
    assert command.run_demo(tmp_path / "out") == 0 and (tmp_path / "out" / "contact-sheet.png").is_file()

"""What one execution of a run holds, chooses and keeps; runs from end to end are in the other files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lora_train.config import RunConfig
from lora_train.data.scan import Manifest, scan
from lora_train.errors import LoraTrainError
from lora_train.hosts.standalone import StandaloneHost
from lora_train.lock import RunLock
from lora_train.lorafile.reading import read_lora
from lora_train.runs.check import check_run
from lora_train.runs.execute import _Execution, execute, run_training
from lora_train.runs.folder import RunFolder
from lora_train.runs.stages import Stages
from tests.conftest import draw_pictures

Make = Callable[..., RunConfig]
MODEL: Any = SimpleNamespace(
    family="sd1", native_resolution=64, size_step=8, roots=dict, text_prefixes=(), count_tokens=len
)


def test_a_run_that_is_going_on_is_left_alone(make_config: Make, host: StandaloneHost) -> None:
    """By whoever did not ask first, too: two at once would write into one folder."""
    config = make_config()
    manifest = check_run(config, host)
    folder = RunFolder.create(host.data_dir() / "runs", config)
    before = folder.read()
    with RunLock(folder.path), pytest.raises(LoraTrainError, match="already in progress"):
        execute(folder, config, manifest, host, lambda: True, Stages())
    assert folder.read() == before and folder.events() == []


def test_it_is_held_from_the_first_event_to_the_last(make_config: Make, host: StandaloneHost) -> None:
    held: list[bool] = []
    config = make_config()
    manifest = check_run(config, host)
    folder = RunFolder.create(host.data_dir() / "runs", config)
    folder.listener = lambda event: held.append(folder.going_on)
    execute(folder, config, manifest, host, lambda: False, Stages(train=False, latents=False))
    assert held and all(held) and not folder.going_on


def test_a_resumed_run_keeps_what_was_chosen_at_first(make_config: Make, host: StandaloneHost, pictures: Path) -> None:
    """Though other pictures would make other choices; one without a saved state begins again, and chooses again."""
    config = make_config(train={"max_train_steps": None})
    folder = RunFolder.create(host.data_dir() / "runs", config)

    def choose() -> RunConfig:
        return _Execution(folder, config, scan(pictures), host, lambda: False, Stages())._choose(MODEL)

    first = choose()
    assert first.train.max_train_steps and RunConfig.from_dict(folder.read()["resolved"]) == first
    draw_pictures(pictures, 40)
    folder.state_path.parent.mkdir()
    folder.state_path.touch()
    assert choose() == first
    folder.state_path.unlink()
    again = choose()
    assert again.train.max_train_steps != first.train.max_train_steps
    assert RunConfig.from_dict(folder.read()["resolved"]) == again
    assert [event["kind"] for event in folder.events()] == ["choices", "choices"]


def test_epochs_stay_what_they_were_when_a_run_continues(make_config: Make, host: StandaloneHost) -> None:
    """The steps beside them count for nothing; those that a resume asks for do (it drops the epochs)."""
    asked = make_config(train={"max_train_steps": 7, "max_train_epochs": 5})
    before = make_config(train={"max_train_steps": 15, "max_train_epochs": 5, "lr_warmup_steps": 0.0})
    folder = RunFolder.create(host.data_dir() / "runs", asked)
    for epochs, expected in ((5, 15), (0, 20)):
        steps = 7 if epochs else 20
        config = replace(asked, train=replace(asked.train, max_train_epochs=epochs, max_train_steps=steps))
        run = _Execution(folder, config, Manifest(Path()), host, lambda: False, Stages())
        assert run._longer(before).train.max_train_steps == expected


def test_a_lora_that_appears_meanwhile_is_not_written_over(
    make_config: Make, host: StandaloneHost, tmp_path: Path
) -> None:
    path = tmp_path / "loras" / "sara.safetensors"

    def appear(event: dict[str, Any]) -> None:
        if event["kind"] == "step":
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(b"another's")

    config = make_config(train={"max_train_steps": 1}, data={"resolution": 64})
    with pytest.raises(LoraTrainError, match="exists already.*saved here instead") as caught:
        run_training(config, host, appear)
    assert path.read_bytes() == b"another's"
    assert read_lora(Path(caught.value.problems[0].fix.split(": ", 1)[1])).metadata["ss_steps"] == "1"

"""What a run writes on the LoRA's card, the first time and again."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lora_train.config import RunConfig
from lora_train.hosts.standalone import StandaloneHost
from lora_train.lorafile import sidecar
from lora_train.lorafile.reading import read_lora
from lora_train.runs.execute import resume_training, run_training
from lora_train.runs.folder import RunFolder

Make = Callable[..., RunConfig]


def test_stopping_resuming_and_overwriting_renew_the_card(make_config: Make, host: StandaloneHost) -> None:
    config = make_config(train={"max_train_steps": 3}, data={"tag": ""})
    steps: list[int] = []
    events: list[dict[str, Any]] = []

    def listen(event: dict[str, Any]) -> None:
        events.append(event)
        if event["kind"] == "step":
            steps.append(event["step"])

    first = run_training(config, host, listen, lambda: len(steps) >= 2)
    assert first.path is not None and first.steps == 2
    path = first.path.with_suffix(".json")
    assert json.loads(path.read_text())["notes"].endswith("4 pictures, 2 steps.")
    assert json.loads(path.read_text())["activation text"] == "sks"
    assert any("begin with 'sks'" in event.get("text", "") for event in events)
    assert read_lora(first.path).metadata["modelspec.trigger_phrase"] == "sks"
    resume_training(RunFolder(first.folder), host)
    card = json.loads(path.read_text())
    assert card["notes"].endswith("4 pictures, 3 steps.")
    path.write_text(json.dumps(card | {"preferred weight": 0.5}))
    again = replace(
        config,
        data=replace(config.data, tag="zwx"),
        train=replace(config.train, max_train_steps=1),
        save=replace(config.save, overwrite=True),
    )
    run_training(again, host)
    card = json.loads(path.read_text())
    assert card["notes"].endswith("4 pictures, 1 step.") and card["activation text"] == "zwx"
    assert card["preferred weight"] == 0.5


def test_a_card_that_fails_in_any_way_is_a_note(
    make_config: Make, host: StandaloneHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> Path:
        raise RecursionError("too deep")

    monkeypatch.setattr(sidecar, "write_sidecar", fail)
    result = run_training(make_config(train={"max_train_steps": 1}), host)
    folder = RunFolder(result.folder)
    assert folder.read()["state"] == "finished"
    assert any(
        "card beside the LoRA was not written: RecursionError: too deep" in e.get("text", "") for e in folder.events()
    )

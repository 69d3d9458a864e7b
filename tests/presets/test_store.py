"""Presets by name: ours and the person's, at the command line and over the routes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from lora_train.api.routes import PREFIX, routes
from lora_train.cli import build_parser, main
from lora_train.cli.train import config_of
from lora_train.config import RunConfig
from lora_train.config.table import known
from lora_train.errors import LoraTrainError, Unknown
from lora_train.hosts.standalone import StandaloneHost
from lora_train.presets.store import (
    OF_ONE_TRAINING,
    OURS,
    all_presets,
    delete_preset,
    load_preset,
    merged,
    save_preset,
)
from lora_train.runs.service import Service


class Anybody:
    """A login that lets everybody in."""

    def allows(self, *_given: object) -> bool:
        return True


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LORA_TRAIN_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


CONFIG = RunConfig.from_dict(
    {"train": {"seed": 7, "learning_rate": 1e-3}, "data": {"folder": "in", "tag": "sks"}, "save": {"output_name": "x"}}
)


def test_ours_are_options_that_exist() -> None:
    assert all(known(path) for path in OF_ONE_TRAINING)
    for name, (help, sections) in OURS.items():
        assert help and not help.endswith(".") and RunConfig.from_dict(dict(sections)) != RunConfig(), name


def test_one_is_saved_without_what_belongs_to_one_training(data: Path) -> None:
    assert save_preset(data, "mine", CONFIG) == ["data.folder", "data.tag", "save.output_name"]
    assert load_preset(data, "mine") == {"train": {"seed": 7, "learning_rate": 1e-3}}
    assert [one.name for one in all_presets(data)] == [*OURS, "mine"]
    delete_preset(data, "mine")
    with pytest.raises(Unknown, match="Did you mean prodigy"):
        load_preset(data, "prodgy")
    with pytest.raises(Unknown):
        delete_preset(data, "mine")


@pytest.mark.parametrize("name", ["", "../x", "a/b", "a\\b", ".x", "con", "x" * 80, "a.", " a", "a\nb"])
def test_no_name_leads_out_of_the_folder(data: Path, name: str) -> None:
    for act in (
        lambda: save_preset(data, name, CONFIG),
        lambda: load_preset(data, name),
        lambda: delete_preset(data, name),
    ):
        with pytest.raises(LoraTrainError, match="cannot be the name"):
            act()
    assert not (data / "presets").exists()


def test_ours_stay(data: Path) -> None:
    with pytest.raises(LoraTrainError, match="program's own"):
        save_preset(data, "prodigy", CONFIG)
    with pytest.raises(LoraTrainError, match="program's own"):
        delete_preset(data, "prodigy")


def test_a_damaged_one_is_reported(data: Path) -> None:
    (data / "presets").mkdir(parents=True)
    for text in ("{", '{"train": {"sed": 1}}', "[]"):
        (data / "presets" / "mine.json").write_text(text)
        with pytest.raises(LoraTrainError):
            load_preset(data, "mine")


def test_later_layers_win() -> None:
    assert merged({"a": {"x": 1, "y": 1}}, {"a": {"x": 2}, "version": 1}) == {"a": {"x": 2, "y": 1}, "version": 1}


def test_at_the_command_line(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "kohya.json"
    path.write_text(
        json.dumps({"network_dim": 8, "learning_rate": 1e-3, "seed": 3, "train_data_dir": "in", "color_aug": "v"})
    )
    assert main(["preset", "save", "mine", str(path)]) == 0
    said = capsys.readouterr()
    assert "not honoured: color_aug" in said.err and "belongs to one training: data.folder" in said.err.replace(
        "--input", "data.folder"
    )
    assert main(["preset", "list"]) == 0 and "mine" in capsys.readouterr().out
    assert main(["preset", "show", "mine"]) == 0
    assert json.loads(capsys.readouterr().out)["network"] == {"network_dim": 8}
    other = tmp_path / "b.json"
    other.write_text('{"train": {"learning_rate": 0.5, "seed": 42}}')

    def made(*line: str) -> RunConfig:
        return config_of(build_parser().parse_args(["train", "--preset", "mine", *line]), "", "")

    assert (made().network.network_dim, made().train.learning_rate, made().train.seed) == (8, 1e-3, 3)
    found = made("--config", str(other))
    assert (found.network.network_dim, found.train.learning_rate, found.train.seed) == (8, 0.5, 42), "the file wins"
    assert made("--config", str(other), "--lr", "0.1").train.learning_rate == 0.1, "a flag wins"
    out = tmp_path / "out.toml"
    assert main(["preset", "export", "mine", str(out)]) == 0
    assert "network_dim = 8" in out.read_text() and "left open" in capsys.readouterr().err
    assert main(["preset", "delete", "mine"]) == 0 and main(["preset", "show", "mine"]) == 2
    assert "there is no preset 'mine'" in capsys.readouterr().err


def test_a_training_keeps_its_options_as_a_preset(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("lora_train.runs.terminal.train_with_progress", lambda *given: 0)
    line = ["--model", "m", "--input", "in", "--output", "x", "--dir", "out", "--offline", "--dim", "12"]
    out = tmp_path / "k.json"
    assert main(["train", *line, "--save-preset", "mine", "--export-kohya", str(out)]) == 0
    assert load_preset(data, "mine") == {"model": {"path": "m"}, "network": {"network_dim": 12}}
    assert json.loads(out.read_text())["network_dim"] == 12
    assert "--lr: is left open" in capsys.readouterr().err.replace("train.learning_rate", "--lr")


def test_over_the_routes(data: Path) -> None:
    app = FastAPI()
    app.include_router(routes(Service(StandaloneHost()), Anybody()))  # type: ignore[arg-type]
    client, at = TestClient(app), f"{PREFIX}/presets"
    assert client.put(f"{at}/mine", json={"config": CONFIG.to_dict()}).json()["left_out"] == [
        *("data.folder", "data.tag", "save.output_name"),
    ]
    assert {"name": "mine", "help": "", "ours": False} in client.get(at).json()["presets"]
    assert client.get(f"{at}/mine").json()["config"]["train"] == {"seed": 7, "learning_rate": 1e-3}
    assert client.get(f"{at}/mine/kohya").json()["options"]["seed"] == 7
    told = client.post(f"{at}/import", json={"content": {"network_dim": 8, "color_aug": "v"}}).json()
    assert told["config"] == {"network": {"network_dim": 8}} and "not honoured: color_aug" in told["report"][1]
    assert client.put(f"{at}/prodigy", json={"config": {}}).status_code == 422
    assert client.put(f"{at}/mine", json={"config": {"train": {"sed": 1}}}).status_code == 422
    assert client.request("DELETE", f"{at}/mine", json={}).json() == {"deleted": "mine"}
    assert client.get(f"{at}/mine").status_code == 404
    assert client.request("DELETE", f"{at}/mine", json={}).status_code == 404

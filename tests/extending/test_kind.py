"""A kind of network from outside (`ray.py`) goes everywhere that the package's own go."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from lora_train.cli import build_parser, main
from lora_train.cli.train import config_of
from lora_train.config import NetworkOptions, RunConfig, problems
from lora_train.config.arguments import algorithms
from lora_train.config.choices import KINDS as NAMES
from lora_train.config.choices import SCALABLE
from lora_train.config.document import document
from lora_train.config.extending import registered_for, unregister
from lora_train.config.schema import schema
from lora_train.config.table import CHOICES, find
from lora_train.errors import LoraTrainError
from lora_train.hosts.standalone import StandaloneHost
from lora_train.lorafile.reading import LoraFile, read_lora
from lora_train.lorafile.writing import serialise
from lora_train.models.opening import open_model
from lora_train.prompt.generate import Generator
from lora_train.records.kinds import KINDS
from lora_train.runs.execute import resume_training, run_training
from lora_train.runs.folder import RunFolder
from tests.extending import ray

Make = Callable[..., RunConfig]


@pytest.fixture
def registered() -> Iterator[None]:
    """The kind is there within the test, and gone after it."""
    with registered_for(*ray.ADDED):
        yield


def _config(make: Make, **train: Any) -> RunConfig:
    return make(
        network={"kind": "ray"},
        train={"learning_rate": 0.01, "unet_lr": 0.01, "text_encoder_lr": 0.01, **train},
        save={"save_precision": "fp32"},
    )


def test_it_is_unknown_before_and_after(make_config: Make) -> None:
    def known() -> list[bool]:
        return ["ray" in names for names in (NAMES, SCALABLE, CHOICES["network.kind"], algorithms())] + [
            "ray" in build_parser().parse_args(["train", "--algo", name]).algo
            for name in (["ray"] if "ray" in KINDS else [])
        ]

    from lora_train.ui import form  # gradio takes its time

    assert known() == [False] * 4 and "'ray' is not known" in _said(_config(make_config))
    ray.add()
    try:
        assert known() == [True] * 5 and _said(_config(make_config)) == ""
        assert "ray" in schema()["properties"]["network"]["properties"]["kind"]["enum"]
        assert "ray" in form._choices(find("network.kind"))
        with pytest.raises(ValueError, match="already"):
            ray.add()
    finally:
        unregister(*ray.ADDED)
    assert known() == [False] * 4


def _said(config: RunConfig) -> str:
    return "\n".join(str(problem) for problem in problems(config))


@pytest.mark.usefixtures("registered")
def test_checks_and_documents_know_it(make_config: Make) -> None:
    assert "`ray`" in document() and "| ray, beam | one ray of rank 1, with a trained length |" in document()
    assert _said(make_config(network={"kind": "ray", "scale_weight_norms": 1.0})) == ""
    for option, value in (("factor", 4), ("dora_wd", True), ("network_dropout", 0.1), ("constraint", 1.0)):
        assert f"network.{option}" in _said(make_config(network={"kind": "ray", option: value}))
    assert _said(make_config(network={"network_rules": ("attn2: kind=ray",)})) == ""

    def network(line: str) -> NetworkOptions:
        return config_of(build_parser().parse_args(["train", *line.split()]), "", "").network

    assert network("--algo ray").kind == network("--args algo=ray").kind == "ray"
    assert network("--algo beam") == NetworkOptions(kind="ray", train_norm=True)
    with pytest.raises(LoraTrainError, match=r"Choose from: .*ray"):
        network("--algo rays")


@pytest.mark.usefixtures("registered")
def test_it_is_trained_told_read_and_applied(make_config: Make, host: StandaloneHost, base: Path) -> None:
    events: list[dict[str, Any]] = []
    path = run_training(_config(make_config), host, events.append).path
    assert path is not None
    file = read_lora(path)
    assert {key.split(".", 1)[1] for key in file.tensors} == {*ray.PARTS} and file.skipped == () and file.notes == ()
    assert any(float(value) for key, value in file.tensors.items() if key.endswith(ray.LENGTH))
    assert file.metadata["ss_network_module"] == "lora_train"
    assert json.loads(file.metadata["ss_network_args"])["algo"] == "ray"
    said = "\n".join(event["text"] for event in events if event["kind"] == "note")
    assert "cannot apply ray" in said and "no other program is known to" in said
    found = Generator(open_model(base), path.parent)
    (without,), (with_it,) = (found.generate(text, steps=2).pictures for text in ("sks", "sks <lora:sara:40>"))
    again = found.generate("sks", steps=2).pictures[0]
    assert without.tobytes() != with_it.tobytes() and without.tobytes() == again.tobytes()


@pytest.mark.usefixtures("registered")
def test_at_the_command_line(
    base: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LORA_TRAIN_DATA", str(tmp_path / "data"))
    place = ["--model", str(base), "--input", str(pictures), "--dir", str(tmp_path / "loras"), "--offline"]
    usual = ["--tag", "sks", "--output", "ray", "--steps", "1", "--device", "cpu", "--preview", ""]
    assert main(["train", *place, *usual, "--algo", "ray", "--max-norm", "0.5"]) == 0
    capsys.readouterr()
    written = tmp_path / "loras" / "ray.safetensors"
    assert main(["file", "inspect", "--json", str(written)]) == 0
    told = json.loads(capsys.readouterr().out)
    told = told[0] if isinstance(told, list) else told
    assert list(told["kinds"]) == ["ray"] and told["base"] == "SD 1.x" and told["problems"] == []
    more = ["--continue", str(written), "--overwrite"]
    assert main(["train", *place, *usual, *more]) == 0


@pytest.mark.usefixtures("registered")
def test_resumed_it_has_the_same_bits(make_config: Make, tmp_path: Path) -> None:
    config = _config(make_config, max_train_steps=4)
    whole = run_training(config, StandaloneHost(tmp_path / "a")).path
    assert whole is not None
    one = read_lora(whole).tensors
    whole.unlink()
    seen: list[dict[str, Any]] = []
    host = StandaloneHost(tmp_path / "b")

    def stopped() -> bool:
        return sum(event["kind"] == "step" for event in seen) >= 2

    first = run_training(config, host, seen.append, stopped)
    assert first.stopped and first.steps == 2
    second = resume_training(RunFolder(first.folder), host).path
    assert second is not None
    other = read_lora(second).tensors
    assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.usefixtures("registered")
def test_halves_and_strange_parts_are_named(tmp_path: Path) -> None:
    name = "lora_unet_mid_block_attentions_0_proj_in"
    whole = {ray.OUT: torch.ones(4), ray.INTO: torch.ones(4), ray.LENGTH: torch.tensor(1.0)}
    path = tmp_path / "a.safetensors"

    def read(parts: dict[str, torch.Tensor]) -> LoraFile:
        path.write_bytes(serialise({f"{name}.{part}": value for part, value in parts.items()}, {}))
        return read_lora(path)

    assert read(whole).skipped == ()
    assert read(whole | {"hada_t1": torch.ones(2)}).skipped == (f"{name}.hada_t1",)
    with pytest.raises(LoraTrainError, match="shapes do not fit"):
        read(whole | {ray.LENGTH: torch.ones(2)})
    with pytest.raises(LoraTrainError, match="halves are missing"):
        read({part: value for part, value in whole.items() if part != ray.OUT})

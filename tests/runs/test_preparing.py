"""The preparing stage inside a run and on the command line."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image

from lora_train.cli import main
from lora_train.config import RunConfig
from lora_train.errors import LoraTrainError
from lora_train.hosts.standalone import StandaloneHost
from lora_train.lorafile.reading import read_lora
from lora_train.runs.execute import run_training
from lora_train.runs.folder import RunFolder
from lora_train.runs.stages import Stages
from tests.conftest import draw_pictures

pytest.importorskip("scipy", reason="the formulas need scipy")
Make = Callable[..., RunConfig]
OPERATIONS = ("original", "similar", "resize", "interrogate")


class Captions(StandaloneHost):
    """A host with a captioner."""

    def caption(self, pictures: Iterable[Image.Image], kind: str) -> Iterator[str]:
        yield from (f"a picture {picture.width} wide, more words" for picture in pictures)


@pytest.fixture
def config(make_config: Make, pictures: Path) -> RunConfig:
    draw_pictures(pictures, 5)
    (pictures / "picture-4.txt").unlink()
    (pictures / "broken.png").write_bytes(b"no picture")
    made = make_config(save={"save_precision": "fp32"})
    return RunConfig.from_dict(
        made.to_dict()
        | {"prepare": {"operations": list(OPERATIONS), "target": 64, "min_size": 0, "max_similarity": 1.0}}
    )


def test_a_run_trains_on_what_was_prepared_and_says_why_not_on_the_rest(config: RunConfig, tmp_path: Path) -> None:
    before = {p.name: p.read_bytes() for p in Path(config.data.folder).iterdir()}
    host = Captions(tmp_path / "one")
    result = run_training(config, host)
    events = RunFolder(result.folder).events()
    assert any(e["kind"] == "rejected" and e["file"] == "broken.png" and e["reason"] for e in events)
    assert result.path is not None
    told = read_lora(result.path).metadata
    captions = [c for folder in json.loads(told["ss_tag_frequency"]).values() for c in folder]
    assert "a picture 64 wide" in captions and "sks on colour 0" in captions
    assert {p.name: p.read_bytes() for p in Path(config.data.folder).iterdir()} == before


def test_notrain_then_noprocess_equals_both_at_once(config: RunConfig, tmp_path: Path) -> None:
    together = run_training(config, Captions(tmp_path / "one")).path
    assert together is not None
    tensors = read_lora(together).tensors
    together.unlink()
    host = Captions(tmp_path / "two")
    with pytest.raises(LoraTrainError, match="have not been prepared"):
        run_training(config, host, stages=Stages(process=False))
    assert run_training(config, host, stages=Stages(train=False)).path is None
    apart = run_training(config, host, stages=Stages(process=False)).path
    assert apart is not None
    other = read_lora(apart).tensors
    assert tensors.keys() == other.keys() and all(torch.equal(tensors[k], other[k]) for k in tensors)


def test_the_command_line(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LORA_TRAIN_DATA", str(tmp_path / "data"))
    command = ["prepare", "--input", str(pictures), "--process", "original,blur,resize", "--min-size", "0"]
    assert main([*command, "--target", "64", "--blur-score", "9"]) == 0
    told = capsys.readouterr().out
    assert "4 pictures kept" in told
    report = json.loads(Path(told.split("Report")[1].strip()).read_text())
    assert [line["outcome"] for line in report["pictures"]] == ["kept"] * 4
    assert main(["prepare", "--input", str(tmp_path / "nowhere"), "--process", "face,nonsense"]) == 2
    errors = capsys.readouterr().err
    assert "no such folder" in errors and "nonsense" in errors

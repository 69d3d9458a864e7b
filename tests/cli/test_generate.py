"""`generate`: which base it takes, which LoRAs it refuses, and where its pictures go."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lora_train.cli import build_parser, main
from lora_train.config import RunConfig
from lora_train.errors import LoraTrainError
from lora_train.hosts.standalone import StandaloneHost
from lora_train.lorafile.writing import serialise
from lora_train.runs.execute import run_training

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LORA_TRAIN_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


@pytest.fixture
def trained(data: Path, make_config: Callable[..., RunConfig]) -> Path:
    """A LoRA called sara, trained one step."""
    config = make_config(save={"output_dir": str(data / "loras")}, train={"max_train_steps": 1})
    path = run_training(config, StandaloneHost()).path
    assert path is not None
    return path


def test_it_says_its_base_and_where_the_picture_is(
    data: Path, base: Path, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["generate", "sks <lora:sara:1>", "--steps", "1"]) == 0
    said = capsys.readouterr()
    assert said.out.strip() == str(data / "pictures" / "picture.png") and Path(said.out.strip()).is_file()
    line = f"note: Base model: {base} (sara was trained on it). --model selects another."
    assert line in said.err.splitlines()
    assert main(["generate", "sks", "--steps", "1", "--model", str(base)]) == 0
    said = capsys.readouterr()
    assert "Base model" not in said.err and said.out.strip() == str(data / "pictures" / "picture-2.png")
    assert main(["generate", "sks", "--steps", "1"]) == 0
    assert f"{base} (used last)" in capsys.readouterr().err


def test_a_folder_for_the_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "here.v2").mkdir()
    arguments = ["generate", "sks", "--steps", "1", "--count", "2", "--output", str(tmp_path / "here.v2")]
    for ending in ("", "-2"):
        assert main(arguments) == 0
        wanted = [str(tmp_path / "here.v2" / f"picture-{seed}{ending}.png") for seed in (1, 2)]
        assert capsys.readouterr().out.split() == wanted and all(Path(path).is_file() for path in wanted)


def test_the_default_folder_is_in_no_repository() -> None:
    assert "lora-train-data/" in (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()


def test_all_loras_that_are_missing_are_an_error_before_anything_is_loaded(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (data / "loras").mkdir(parents=True)
    (data / "loras" / "sara.safetensors").touch()
    arguments = ["generate", "a <lora:srra:1> <lora:/no/x.safetensors:1> <lora:sara:0,8>", "--model", "/no/model"]
    assert main([*arguments, "--steps", "0", "--device", "cuda:99"]) == 2
    said = capsys.readouterr().err
    assert "no LoRA called 'srra' (nearest: sara)" in said and "--allow-missing" in said
    assert "/no/x.safetensors: there is no such LoRA file" in said
    assert "<lora:sara:0,8> is not understood: '0,8' is not a number; write 0.8." in said
    assert "--steps" in said and "--device" in said and "/no/model" not in said
    assert "Traceback" not in said and not (data / "pictures").exists()


def test_missing_loras_can_be_allowed(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["generate", "a <lora:nobody:1> <lora:x:0,8>", "--steps", "1"]
    assert main([*arguments, "--allow-missing"]) == 0
    said = capsys.readouterr()
    assert "<lora:nobody> is left out." in said.err and "<lora:x:0,8> is ignored" in said.err
    assert Path(said.out.strip()).is_file()


def test_a_lora_that_does_not_fit_is_one_too(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (data / "loras").mkdir(parents=True)
    half = {f"lora_unet_nothing.{name}": torch.ones(1, 1) for name in ("lora_down.weight", "lora_up.weight")}
    (data / "loras" / "other.safetensors").write_bytes(serialise(half, {}))
    (data / "loras" / "broken.safetensors").write_bytes(b"nonsense")
    arguments = ["generate", "a <lora:other:1> <lora:broken:1>", "--steps", "1"]
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert "made for another base model" in said and "broken.safetensors" in said
    assert not (data / "pictures").exists()
    assert main([*arguments, "--allow-missing"]) == 0


def test_a_lora_by_its_path(tmp_path: Path, data: Path, trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Wherever it lies; and the picture is that of the same file by its name."""
    elsewhere = trained.rename(tmp_path / "anna.safetensors")
    assert main(["generate", f"sks <lora:{elsewhere}:1>", "--steps", "1"]) == 0
    said = capsys.readouterr()
    assert "left out" not in said.err and "anna was trained on it" in said.err
    elsewhere.rename(data / "loras" / "anna.safetensors")
    assert main(["generate", "sks <lora:anna:1>", "--steps", "1"]) == 0
    assert Path(capsys.readouterr().out.strip()).read_bytes() == Path(said.out.strip()).read_bytes()


def test_the_device_is_as_in_train(capsys: pytest.CaptureFixture[str]) -> None:
    options = build_parser().parse_args(["generate", "sks", "--device", "cuda:1"])
    assert options.device == "cuda:1"
    assert main(["generate", "sks", "--steps", "1", "--device", "cpu"]) == 0
    assert main(["generate", "sks", "--steps", "1", "--device", "nonsense"]) == 2
    assert "--device: the device 'nonsense' is not there" in capsys.readouterr().err


def test_the_model_goes_to_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    import lora_train.device
    import lora_train.prompt.generate

    seen: list[Any] = []

    def generator(model: Any, *_given: Any) -> Any:
        seen.append((model.device.type, next(model.unet.parameters()).device.type, model.unet.dtype))
        raise LoraTrainError("seen.")

    monkeypatch.setattr(lora_train.device, "pick_device", lambda asked, where: "meta")
    monkeypatch.setattr(lora_train.device, "inference_dtype", lambda device: torch.bfloat16)
    monkeypatch.setattr(lora_train.prompt.generate, "Generator", generator)
    assert main(["generate", "sks", "--steps", "1"]) == 2
    assert seen == [("meta", "meta", torch.bfloat16)]

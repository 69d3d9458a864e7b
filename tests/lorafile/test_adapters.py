"""Files with two adapters: every tool takes the one that is asked for."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lora_train.cli import build_parser, main
from lora_train.cli.network import network_of
from lora_train.config import NetworkOptions, RunConfig, problems
from lora_train.errors import LoraTrainError
from lora_train.lorafile.adapters import choose_adapters
from lora_train.lorafile.reading import adapters_of, read_lora
from lora_train.lorafile.writing import serialise
from lora_train.train.network import continued_file, start_files

PEFT = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_out.0"
FLAT = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_out_0"
DOWN, UP = f"{FLAT}.lora_down.weight", f"{FLAT}.lora_up.weight"
VALUES = {"person": 2.0, "style": 1.0}


def write(path: Path, **adapters: float) -> Path:
    tensors = {}
    for name, value in adapters.items():
        dot = f".{name}" if name != "plain" else ""
        tensors[f"{PEFT}.lora_A{dot}.weight"] = torch.full((4, 8), value)
        tensors[f"{PEFT}.lora_B{dot}.weight"] = torch.full((8, 4), value)
    path.write_bytes(serialise(tensors, {}))
    return path


@pytest.fixture
def two(tmp_path: Path) -> Path:
    return write(tmp_path / "two.safetensors", **VALUES)


@pytest.fixture
def one(tmp_path: Path) -> Path:
    return write(tmp_path / "one.safetensors", plain=5.0)


def change(path: Path) -> float:
    """An element of up down of the file, as it is written."""
    tensors = read_lora(path).tensors
    scale = float(tensors.get(f"{FLAT}.alpha", torch.tensor(float(len(tensors[DOWN]))))) / len(tensors[DOWN])
    return float((scale * tensors[UP].float() @ tensors[DOWN].float())[0, 0])


def test_which_are_there(two: Path, one: Path, tmp_path: Path) -> None:
    assert adapters_of(two) == ["person", "style"] and adapters_of(one) == []
    assert adapters_of(write(tmp_path / "named.safetensors", default=1.0)) == []


def test_one_name_is_for_the_files_that_have_it(two: Path, one: Path) -> None:
    assert choose_adapters([one, two], ["style"]) == ["", "style"]
    assert choose_adapters([two, two], ["style", "person"]) == ["style", "person"]
    assert choose_adapters([two, one], []) == choose_adapters([two, one], [""]) == ["", ""]
    with pytest.raises(LoraTrainError, match=r"no file here has an adapter called 'x' \(there: person, style\)"):
        choose_adapters([one, two], ["x"])
    with pytest.raises(LoraTrainError, match="2 adapters for 3 files"):
        choose_adapters([one, two, two], ["style", "person"])


@pytest.mark.parametrize(("name", "value"), VALUES.items())
def test_resize_and_merge(two: Path, one: Path, tmp_path: Path, name: str, value: float) -> None:
    out = str(tmp_path / "out.safetensors")
    assert main(["file", "resize", str(two), "--adapter", name, "--rank", "2", "--output", out]) == 0
    assert change(Path(out)) == pytest.approx(4 * value**2, rel=1e-3)
    line = ["file", "merge", str(two), str(one), "--adapter", name, "--precision", "fp32", "--output", out]
    assert main([*line, "--overwrite"]) == 0
    assert change(Path(out)) == pytest.approx(4 * value**2 + 4 * 25, rel=1e-3)


def test_both_of_one_file_can_be_compared_and_merged(
    two: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["file", "compare", str(two), str(two), "--adapter", "style", "person"]) == 0
    assert "norms 32 128" in capsys.readouterr().out
    out = str(tmp_path / "out.safetensors")
    line = ["file", "merge", str(two), str(two), "--adapter", "style", "person", "--precision", "fp32"]
    assert main([*line, "--output", out]) == 0
    assert change(Path(out)) == pytest.approx(4 * 1 + 4 * 4, rel=1e-3)


@pytest.mark.parametrize("command", ["inspect", "convert", "resize", "merge", "merge-into", "compare"])
def test_one_that_is_not_there_is_a_problem(
    two: Path, tmp_path: Path, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    more = {
        "convert": ["--to", "kohya", "--output", str(tmp_path / "o.safetensors")],
        "resize": ["--rank", "2", "--output", str(tmp_path / "o.safetensors")],
        "merge": ["--output", str(tmp_path / "o.safetensors")],
        "merge-into": ["--output", str(tmp_path / "o.safetensors")],
        "compare": [str(two)],
    }
    checkpoint = [str(two)] if command == "merge-into" else []
    assert main(["file", command, *checkpoint, str(two), *more.get(command, []), "--adapter", "other"]) == 2
    told = capsys.readouterr().err
    assert "adapter called 'other' (there: person, style)" in told


def test_a_training_goes_on_from_the_one_that_is_asked_for(two: Path, one: Path) -> None:
    for name, value in VALUES.items():
        options = NetworkOptions(network_weights=str(two), network_adapter=name)
        assert float(continued_file(options).tensors[DOWN][0, 0]) == value
    options = NetworkOptions(network_weights=str(one), base_weights=(str(two),), network_adapter="style")
    assert start_files(options) == [(one, ""), (two, "style")]
    with pytest.raises(LoraTrainError, match="no file here has an adapter called 'x'"):
        continued_file(NetworkOptions(network_weights=str(two), network_adapter="x"))


def test_the_training_s_option() -> None:
    options = build_parser().parse_args(["train", "--continue", "a.safetensors", "--adapter", "style"])
    assert network_of(options, NetworkOptions()).network_adapter == "style"
    lonely = RunConfig(network=NetworkOptions(network_adapter="style"))
    assert any(problem.where == "network.network_adapter" for problem in problems(lonely))

"""What the tools for LoRA files say of files that hold nothing, or have nothing in common."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lora_train.cli import main
from lora_train.lorafile.inspecting import inspect
from lora_train.lorafile.writing import serialise

NAME = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn{}_to_q"


def write(folder: Path, name: str, attention: int = 1, up: float = 1.0) -> Path:
    module, path = NAME.format(attention), folder / f"{name}.safetensors"
    tensors = {f"{module}.lora_down.weight": torch.ones(4, 8), f"{module}.lora_up.weight": torch.full((8, 4), up)}
    path.write_bytes(serialise(tensors, {}))
    return path


def test_one_whose_values_are_0_is_said_to_change_nothing(tmp_path: Path) -> None:
    assert inspect(write(tmp_path, "a")).notes == ()
    (note,) = inspect(write(tmp_path, "b", up=0.0)).notes
    assert note.startswith("every lora_up is 0: it changes nothing.")


def test_files_without_a_common_module_are_not_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["file", "compare", str(write(tmp_path, "a")), str(write(tmp_path, "b", 2))]) == 0
    told = capsys.readouterr().out
    assert "no module in common" in told and "cosine of all" not in told


def test_a_file_that_is_merged_with_weight_0_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [str(write(tmp_path, "a")), str(write(tmp_path, "b", 2))]
    assert main(["file", "merge", *files, "--weights", "0", "1", "--output", str(tmp_path / "c.safetensors")]) == 0
    assert "note: a.safetensors has the weight 0 and is not merged." in capsys.readouterr().err


@pytest.mark.parametrize("core", [(4, 4, 3, 3), (4, 4), (4,)])
def test_a_core_that_fits_no_linear_layer_is_a_problem(tmp_path: Path, core: tuple[int, ...]) -> None:
    path = write(tmp_path, "a")
    tensors = load_file(path) | {f"{NAME.format(1)}.lora_mid.weight": torch.ones(core)}
    path.write_bytes(serialise(tensors, {}))
    (problem,) = inspect(path).problems
    assert "shapes do not fit each other" in problem and "lora_mid" in problem

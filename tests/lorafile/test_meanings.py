"""What tools of the field mean otherwise than it stands in their files."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from lora_train.cli import main
from lora_train.config import NetworkOptions
from lora_train.errors import LoraTrainError
from lora_train.lorafile.deltas import deltas_for
from lora_train.lorafile.reading import LoraFile, read_lora
from lora_train.lorafile.writing import serialise
from lora_train.tensors import is_finite, read_tensors
from lora_train.train.network import continued_file
from tests.lorafile.samples import lora_tensors

NAME = "mid_block_attentions_0_proj_in"


def _file(path: Path, tensors: dict[str, torch.Tensor]) -> Path:
    path.write_bytes(serialise(tensors, {}))
    return path


def _oft(prefix: str, alpha: float) -> dict[str, torch.Tensor]:
    blocks = torch.randn(2, 4, 4, generator=torch.Generator().manual_seed(0))
    return {f"{prefix}{NAME}.oft_blocks": blocks, f"{prefix}{NAME}.alpha": torch.tensor(alpha)}


def test_kohyas_oft_is_read_under_its_own_prefix(tmp_path: Path) -> None:
    kohya = read_lora(_file(tmp_path / "a.safetensors", _oft("oft_unet_", 0.01)))
    usual = read_lora(_file(tmp_path / "b.safetensors", _oft("lora_unet_", 0.01)))
    assert kohya.tensors.keys() == usual.tensors.keys() and kohya.notes == ()
    weight = torch.randn(8, 8, generator=torch.Generator().manual_seed(1))
    first, second = (deltas_for(weight, f.by_module()[f"lora_unet_{NAME}"])[0] for f in (kohya, usual))
    assert torch.equal(first, second) and float(first.abs().max()) > 0


def _sd_scripts_oft(weight: torch.Tensor, blocks: torch.Tensor, alpha: float) -> torch.Tensor:
    """sd-scripts' networks/oft.py, `get_weight` and `forward`, written out."""
    q = blocks - blocks.transpose(1, 2)
    norm = torch.norm(q.flatten())
    bound = torch.clamp(norm, max=torch.tensor(alpha * weight.shape[0]))
    q = q * ((bound + 1e-8) / (norm + 1e-8))
    eye = torch.eye(q.shape[-1])
    rotation = (eye + q) @ torch.linalg.inv(eye - q)
    return torch.einsum("knm,kni->kmi", rotation, weight.reshape(len(q), -1, weight.shape[1])).reshape(weight.shape)


@pytest.mark.parametrize("alpha", [0.0, 0.01, 10.0])
def test_kohyas_oft_changes_what_sd_scripts_changes(alpha: float, tmp_path: Path) -> None:
    """alpha 0 bounds the rotation to none, which for all other writers means no bound."""
    tensors = _oft("oft_unet_", alpha)
    file = read_lora(_file(tmp_path / "a.safetensors", tensors))
    weight = torch.randn(8, 8, generator=torch.Generator().manual_seed(1))
    delta = deltas_for(weight, file.by_module()[f"lora_unet_{NAME}"])[0]
    expected = _sd_scripts_oft(weight, tensors[f"oft_unet_{NAME}.oft_blocks"], alpha) - weight
    assert torch.allclose(delta, expected, atol=1e-5)
    assert any("no rotation" in note for note in file.notes) is (alpha == 0)


def test_there_is_nothing_to_go_on_from_where_every_rotation_is_bound_to_none(tmp_path: Path) -> None:
    def going_on(prefix: str, alpha: float) -> LoraFile:
        file = _file(tmp_path / "a.safetensors", _oft(prefix, alpha))
        return continued_file(NetworkOptions(network_weights=str(file)))

    with pytest.raises(
        LoraTrainError, match="holds every rotation at 0.*network.kind oft in place of network.network_w"
    ):
        going_on("oft_unet_", 0.0)
    assert going_on("oft_unet_", 0.01).tensors and going_on("lora_unet_", 0.0).tensors


def test_other_writers_alpha_0_leaves_a_rotation_unbounded(tmp_path: Path) -> None:
    file = read_lora(_file(tmp_path / "a.safetensors", _oft("lora_unet_", 0.0)))
    assert float(deltas_for(torch.eye(8), file.by_module()[f"lora_unet_{NAME}"])[0].abs().max()) > 0.1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_alpha_of_a_whole_lokr_is_of_no_use(
    dtype: torch.dtype, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """ai-toolkit's full rank LoKr: alpha 9999999999, which is infinite in fp16."""
    torch.manual_seed(0)
    name = f"lora_unet_{NAME}"
    tensors = {f"{name}.lokr_w1": torch.randn(2, 2).to(dtype), f"{name}.lokr_w2": torch.randn(4, 4).to(dtype)}
    path = _file(tmp_path / "a.safetensors", tensors | {f"{name}.alpha": torch.tensor(9999999999.0).to(dtype)})
    expected = torch.kron(tensors[f"{name}.lokr_w1"].float(), tensors[f"{name}.lokr_w2"].float())
    assert torch.allclose(deltas_for(torch.zeros(8, 8), read_lora(path).by_module()[name])[0], expected)
    assert main(["file", "inspect", str(path)]) == 0
    assert "problem" not in capsys.readouterr().out
    out = tmp_path / "b.safetensors"
    assert main(["file", "convert", str(path), "--to", "kohya", "--precision", "fp16", "--output", str(out)]) == 0
    assert all(map(is_finite, read_tensors(out).values()))


def test_an_infinite_alpha_that_counts_is_still_a_problem(tmp_path: Path) -> None:
    name = f"lora_unet_{NAME}"
    factored = {f"{name}.lokr_w1": torch.ones(2, 2), f"{name}.lokr_w2_a": torch.ones(4, 2)}
    factored |= {f"{name}.lokr_w2_b": torch.ones(2, 4), f"{name}.alpha": torch.tensor(math.inf)}
    with pytest.raises(Exception, match="not finite"):
        read_lora(_file(tmp_path / "a.safetensors", factored))


def test_alpha_0_is_said(tmp_path: Path) -> None:
    """Readers do not agree on it, and it is what fp16 makes of a tiny alpha."""
    tensors = {k: v * 0 if k.endswith("alpha") else v for k, v in lora_tensors().items()}
    assert any(
        "alpha is 0 in 6 modules" in note for note in read_lora(_file(tmp_path / "a.safetensors", tensors)).notes
    )
    assert read_lora(_file(tmp_path / "b.safetensors", lora_tensors())).notes == ()


def test_a_change_of_the_bias_alone_is_one(tmp_path: Path) -> None:
    """ComfyUI's LoraSave writes biases beside modules whose weight did not change."""
    file = read_lora(_file(tmp_path / "a.safetensors", {f"lora_unet_{NAME}.diff_b": torch.ones(8)}))
    weight, bias = deltas_for(torch.zeros(8, 8), file.by_module()[f"lora_unet_{NAME}"])
    assert not weight.any() and bias is not None and torch.equal(bias, torch.ones(8))

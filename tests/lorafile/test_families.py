"""Which base a file is for, and so which names it gets, from what it shows."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lora_train.cli import main
from lora_train.lorafile.base_model import made_for
from lora_train.lorafile.comparing import compare
from lora_train.lorafile.inspecting import inspect
from lora_train.lorafile.reading import read_lora
from lora_train.lorafile.writing import serialise

SD1_BLOCKS = {
    "input_blocks_1_1": ("down_blocks_0_attentions_0", 320),
    "input_blocks_5_1": ("down_blocks_1_attentions_1", 640),
    "middle_block_1": ("mid_block_attentions_0", 1280),
    "output_blocks_11_1": ("up_blocks_3_attentions_2", 320),
}


def _file(path: Path, tensors: dict[str, torch.Tensor], **metadata: str) -> Path:
    path.write_bytes(serialise(tensors, metadata))
    return path


def _pair(name: str, out: int, into: int, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        f"{name}.lora_down.weight": torch.randn(2, into, generator=generator),
        f"{name}.lora_up.weight": torch.randn(out, 2, generator=generator),
    }


def _text(prefix: str = "lora_te_", width: int = 768) -> dict[str, torch.Tensor]:
    return _pair(f"{prefix}text_model_encoder_layers_0_mlp_fc1", 4 * width, width)


@pytest.mark.parametrize("text", [True, False])
@pytest.mark.parametrize("context", [True, False])
def test_sd1_in_the_original_codes_names_is_not_sdxl(context: bool, text: bool, tmp_path: Path) -> None:
    theirs, ours = (_text() if text else {} for _ in range(2))
    for seed, (sgm, (diffusers, width)) in enumerate(SD1_BLOCKS.items()):
        ends = [("attn1_to_q", width), *([("attn2_to_k", 768)] if context else [])]
        for end, into in ends:
            theirs |= _pair(f"lora_unet_{sgm}_transformer_blocks_0_{end}", width, into, seed)
            ours |= _pair(f"lora_unet_{diffusers}_transformer_blocks_0_{end}", width, into, seed)
    a, b = _file(tmp_path / "a.safetensors", theirs), _file(tmp_path / "b.safetensors", ours)
    first, second = read_lora(a), read_lora(b)
    assert first.tensors.keys() == second.tensors.keys() == ours.keys()
    found = compare(first, second)
    assert found.cosine == pytest.approx(1.0) and not found.only_in_a and not found.only_in_b
    assert inspect(a).base == inspect(b).base == ("SD 1.x" if context or text else "SD 1.x or 2.x")


@pytest.mark.parametrize("block", ["input_blocks_1_1", "input_blocks_2_1", "output_blocks_9_1", "output_blocks_6_1"])
def test_attention_where_sdxl_has_none_tells(block: str, tmp_path: Path) -> None:
    file = read_lora(_file(tmp_path / "a.safetensors", _pair(f"lora_unet_{block}_proj_in", 320, 320)))
    assert all(key.startswith(("lora_unet_down_blocks_", "lora_unet_up_blocks_")) for key in file.tensors)


@pytest.mark.parametrize("said", ["sd_1.5", "sd_v1", "SD 1.5", "sd15", "stable-diffusion-v1-5"])
def test_what_is_said_counts_where_nothing_shows(said: str, tmp_path: Path) -> None:
    """Block 4 is there in both; ai-toolkit writes sd_1.5."""
    tensors = _pair("lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q", 640, 640)
    file = read_lora(_file(tmp_path / "a.safetensors", tensors, ss_base_model_version=said))
    assert made_for(file) == "SD 1.x"
    assert "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_q.lora_up.weight" in file.tensors


@pytest.mark.parametrize(
    ("said", "expected"),
    [("sdxl_1.0", "SDXL"), ("sd_xl_base", "SDXL"), ("sd_2.1", "SD 2.x"), ("sd_v2_768_v", "SD 2.x"), ("flux1", "SDXL")],
)
def test_other_spellings_of_versions(said: str, expected: str, tmp_path: Path) -> None:
    tensors = _pair("lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q", 640, 640)
    assert made_for(read_lora(_file(tmp_path / "a.safetensors", tensors, ss_base_model_version=said))) == expected


def test_widths_go_before_what_is_said(tmp_path: Path) -> None:
    tensors = _pair("lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k", 640, 2048)
    file = read_lora(_file(tmp_path / "a.safetensors", tensors, ss_base_model_version="sd_v1"))
    assert made_for(file) == "SDXL"


def test_widths_of_other_kinds_of_networks_tell_too(tmp_path: Path) -> None:
    name = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_v"
    loha = {f"{name}.hada_w{i}_{ab}": torch.ones((8, 2) if ab == "a" else (2, 768)) for i in "12" for ab in "ab"}
    lokr = {f"{name}.lokr_w1": torch.ones(2, 24), f"{name}.lokr_w2": torch.ones(4, 32)}
    for tensors in (loha, lokr, {f"{name}.diff": torch.ones(8, 768)}):
        file = read_lora(_file(tmp_path / "a.safetensors", tensors))
        assert made_for(file) == "SD 1.x" and all("down_blocks_1" in key for key in file.tensors)


COMFY = "text_encoders.clip_{}.transformer.text_model.encoder.layers.0.mlp.fc1"


def test_comfyuis_files_with_text_encoders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    unet = "diffusion_model.input_blocks.8.1.transformer_blocks.{}.attn2.to_k"
    sd1 = _pair(unet.format(0), 1280, 768) | _pair(COMFY.format("l"), 3072, 768)
    sd1[f"{COMFY.format('l')}.diff_b"] = torch.zeros(3072)
    path, out = _file(tmp_path / "a.safetensors", sd1), tmp_path / "out.safetensors"
    assert main(["file", "convert", str(path), "--to", "kohya", "--output", str(out)]) == 0
    assert {key.split(".")[0] for key in read_lora(out).tensors} == {
        "lora_unet_down_blocks_2_attentions_1_transformer_blocks_0_attn2_to_k",
        "lora_te_text_model_encoder_layers_0_mlp_fc1",
    }
    report = inspect(path)
    assert (report.base, report.ranks, report.alphas) == ("SD 1.x", {"2": 2}, {"none": 2})
    assert report.skipped == () and report.notes == ()
    sdxl = (
        _pair(unet.format(9), 1280, 2048) | _pair(COMFY.format("l"), 3072, 768) | _pair(COMFY.format("g"), 5120, 1280)
    )
    assert {key.split(".")[0] for key in read_lora(_file(path, sdxl)).tensors} == {
        "lora_unet_input_blocks_8_1_transformer_blocks_9_attn2_to_k",
        "lora_te1_text_model_encoder_layers_0_mlp_fc1",
        "lora_te2_text_model_encoder_layers_0_mlp_fc1",
    }


def test_other_families_are_named(tmp_path: Path) -> None:
    flux = _pair("lora_unet_double_blocks_0_img_attn_proj", 3072, 3072)
    assert inspect(_file(tmp_path / "a.safetensors", flux)).base == "Flux"

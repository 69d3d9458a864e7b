"""For which base a LoRA was made."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lora_train.lorafile.base_model import made_for
from lora_train.lorafile.reading import LoraFile


def _file(metadata: dict[str, str], tensors: dict[str, tuple[int, ...]]) -> LoraFile:
    return LoraFile(Path("x"), {name: torch.zeros(shape) for name, shape in tensors.items()}, metadata)


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        ("sd_v1", "SD 1.x"),
        ("sd_v1_v", "SD 1.x"),
        ("sd_v2", "SD 2.x"),
        ("sd_v2_v", "SD 2.x"),
        ("sdxl_base_v1-0", "SDXL"),
    ],
)
def test_by_kohyas_metadata(version: str, expected: str) -> None:
    assert made_for(_file({"ss_base_model_version": version}, {})) == expected


def test_by_modelspec() -> None:
    said = {"modelspec.architecture": "stable-diffusion-v2-768-v/lora"}
    assert made_for(_file(said, {"lora_te1_x.alpha": ()})) == "SD 2.x"


@pytest.mark.parametrize(
    ("key", "shape", "expected"),
    [
        ("lora_te2_text_model_encoder_layers_0_mlp_fc1.alpha", (), "SDXL"),
        ("lora_unet_input_blocks_4_1_proj_in.lora_up.weight", (640, 4), "SDXL"),
        ("lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k.lora_down.weight", (4, 768), "SD 1.x"),
        ("lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k.lora_down.weight", (4, 1024), "SD 2.x"),
        ("lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k.lora_down.weight", (4, 2048), "SDXL"),
        ("lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k.lora_down.weight", (4, 7), ""),
        ("lora_te_text_model_encoder_layers_0_mlp_fc1.lora_down.weight", (4, 768), "SD 1.x"),
        ("lora_te_text_model_encoder_layers_0_mlp_fc1.lora_down.weight", (4, 1024), "SD 2.x"),
        ("lora_te_text_model_encoder_layers_0_mlp_fc1.lora_down.weight", (4, 7), ""),
    ],
)
def test_by_keys_and_shapes(key: str, shape: tuple[int, ...], expected: str) -> None:
    assert made_for(_file({}, {key: shape})) == expected

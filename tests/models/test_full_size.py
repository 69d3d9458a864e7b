"""Real layouts at full size: SD 1.x as published, with random weights, trained for one step at 64 px."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from lora_train.config import RunConfig
from lora_train.hosts.standalone import StandaloneHost
from lora_train.lorafile.reading import read_lora
from lora_train.models.ldm_keys import (
    CLIP_PREFIX,
    UNET_PREFIX,
    VAE_PREFIX,
    Translator,
    UnetShape,
    unet_pairs,
    vae_pairs,
)
from lora_train.models.text import file_name_of
from lora_train.models.tokenizers import END, START, byte_alphabet
from lora_train.runs.execute import run_training

pytestmark = pytest.mark.slow

CLIP_L = {
    "vocab_size": 49408,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "projection_dim": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
}
SD1_VAE = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
}


def _write_tokenizer(folder: Path) -> None:
    """A tokenizer of CLIP's size and alphabet; its merges do not matter here."""
    folder.mkdir(parents=True)
    alphabet = byte_alphabet()
    tokens = alphabet + [c + "</w>" for c in alphabet]
    tokens += [f"filler{i}" for i in range(49408 - 2 - len(tokens))] + [START, END]
    (folder / "vocab.json").write_text(json.dumps({t: i for i, t in enumerate(tokens)}), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
    special = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": END, "model_max_length": 77}
    (folder / "tokenizer_config.json").write_text(json.dumps(special), encoding="utf-8")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """diffusers folder, `.safetensors` and `.ckpt` of one random SD 1.x."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    root = tmp_path_factory.mktemp("sd1")
    torch.manual_seed(0)
    unet, vae = UNet2DConditionModel(sample_size=64, cross_attention_dim=768), AutoencoderKL(**SD1_VAE)
    text = CLIPTextModel(CLIPTextConfig(**CLIP_L))
    folder = root / "folder"
    for name, part in (("unet", unet), ("vae", vae), ("text_encoder", text)):
        part.half().save_pretrained(folder / name)
    _write_tokenizer(folder / "tokenizer")
    (folder / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    to_unet = Translator(unet_pairs(UnetShape(2, (True, True, True, False))))
    to_vae = Translator(vae_pairs(4, 2))
    tensors = {UNET_PREFIX + to_unet.to_ldm(n): v for n, v in unet.state_dict().items()}
    for name, value in vae.state_dict().items():
        conv = value[:, :, None, None] if ".attentions." in name and value.ndim == 2 else value
        tensors[VAE_PREFIX + to_vae.to_ldm(name)] = conv
    tensors |= {CLIP_PREFIX + file_name_of(n): v for n, v in text.state_dict().items()}
    tensors = {name: value.contiguous() for name, value in tensors.items()}
    shutil.copytree(folder / "tokenizer", root / "tokenizer")
    save_file(tensors, root / "model.safetensors")
    torch.save({"state_dict": tensors, "global_step": 1}, root / "model.ckpt")
    yield {"folder": folder, "safetensors": root / "model.safetensors", "ckpt": root / "model.ckpt"}
    shutil.rmtree(root)


@pytest.mark.parametrize("layout", ["folder", "safetensors", "ckpt"])
def test_one_step(models: Any, layout: str, make_config: Callable[..., RunConfig], host: StandaloneHost) -> None:
    config = make_config(
        model={"path": str(models[layout])},
        data={"resolution": 64, "min_bucket_reso": 64, "max_bucket_reso": 64, "train_batch_size": 1},
        network={"network_dim": 8, "network_alpha": 4.0},
        train={"max_train_steps": 1},
        save={"output_name": layout, "save_precision": "fp32"},
    )
    result = run_training(config, host)
    assert result.path is not None
    file = read_lora(result.path)
    golden = _golden()
    assert {k: tuple(v.shape) for k, v in file.tensors.items()} == {k: tuple(shape) for k, (_, shape) in golden.items()}
    assert file.metadata["ss_base_model_version"] == "sd_v1"
    assert any(value.abs().max() > 0 for key, value in file.tensors.items() if "lora_up" in key)


def test_all_layouts_load_the_same_weights(models: Any) -> None:
    from lora_train.models.opening import open_model

    folder = open_model(models["folder"])
    for layout in ("safetensors", "ckpt"):
        other = open_model(models[layout])
        for part in ("unet", "vae", "text_encoder"):
            expected = getattr(folder, part).state_dict()
            for name, value in getattr(other, part).state_dict().items():
                assert torch.equal(value.float(), expected[name].float()), (layout, part, name)
        del other


def _golden() -> dict[str, Any]:
    import gzip

    path = Path(__file__).parents[1] / "golden" / "sd1_lora.json.gz"
    content: dict[str, Any] = json.loads(gzip.decompress(path.read_bytes()))
    return content

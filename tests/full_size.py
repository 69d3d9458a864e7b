"""SD 1.x as published, in its real layouts and sizes, with random weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file

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


def write_tokenizer(folder: Path) -> None:
    """A tokenizer of CLIP's size and alphabet; its merges do not matter here."""
    folder.mkdir(parents=True)
    alphabet = byte_alphabet()
    tokens = alphabet + [c + "</w>" for c in alphabet]
    tokens += [f"filler{i}" for i in range(49408 - 2 - len(tokens))] + [START, END]
    (folder / "vocab.json").write_text(json.dumps({t: i for i, t in enumerate(tokens)}), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
    special = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": END, "model_max_length": 77}
    (folder / "tokenizer_config.json").write_text(json.dumps(special), encoding="utf-8")


def write_folder(folder: Path) -> dict[str, torch.Tensor]:
    """A diffusers folder, 2 GB in fp16; returns its weights under their names in a checkpoint."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(0)
    unet, vae = UNet2DConditionModel(sample_size=64, cross_attention_dim=768), AutoencoderKL(**SD1_VAE)
    text = CLIPTextModel(CLIPTextConfig(**CLIP_L))
    for name, part in (("unet", unet), ("vae", vae), ("text_encoder", text)):
        part.half().save_pretrained(folder / name)
    write_tokenizer(folder / "tokenizer")
    (folder / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    to_unet = Translator(unet_pairs(UnetShape(2, (True, True, True, False))))
    to_vae = Translator(vae_pairs(4, 2))
    tensors = {UNET_PREFIX + to_unet.to_ldm(n): v for n, v in unet.state_dict().items()}
    for name, value in vae.state_dict().items():
        conv = value[:, :, None, None] if ".attentions." in name and value.ndim == 2 else value
        tensors[VAE_PREFIX + to_vae.to_ldm(name)] = conv
    tensors |= {CLIP_PREFIX + file_name_of(n): v for n, v in text.state_dict().items()}
    return {name: value.contiguous() for name, value in tensors.items()}


def write_layouts(root: Path) -> dict[str, Path]:
    """One random SD 1.x as a diffusers folder, a `.safetensors` and a `.ckpt`."""
    tensors = write_folder(root / "folder")
    shutil.copytree(root / "folder" / "tokenizer", root / "tokenizer")
    save_file(tensors, root / "model.safetensors")
    torch.save({"state_dict": tensors, "global_step": 1}, root / "model.ckpt")
    return {"folder": root / "folder", "safetensors": root / "model.safetensors", "ckpt": root / "model.ckpt"}

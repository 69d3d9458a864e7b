"""Random base models in their published sizes, as diffusers folders, and pictures to train on. No network."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

SDXL_UNET: dict[str, Any] = {
    "sample_size": 128,
    "cross_attention_dim": 2048,
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "attention_head_dim": (5, 10, 20),
    "transformer_layers_per_block": (1, 2, 10),
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
SD15_UNET: dict[str, Any] = {"sample_size": 64, "cross_attention_dim": 768}
TINY_UNET: dict[str, Any] = {
    "sample_size": 64,
    "block_out_channels": (32, 32, 64, 64),
    "layers_per_block": 1,
    "cross_attention_dim": 64,
}
CLIP_L = {"hidden_size": 768, "intermediate_size": 3072, "projection_dim": 768, "num_hidden_layers": 12}
CLIP_G = {"hidden_size": 1280, "intermediate_size": 5120, "projection_dim": 1280, "num_hidden_layers": 32}
CLIP_TINY = {"hidden_size": 64, "intermediate_size": 128, "projection_dim": 64, "num_hidden_layers": 2}
NARROW_UNET: dict[str, Any] = SD15_UNET | {"block_out_channels": (32, 64, 64, 64), "cross_attention_dim": 64}
HEADS = {768: 12, 1280: 20, 64: 1}
VAE: dict[str, Any] = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
}
TINY_VAE = VAE | {"block_out_channels": (32, 32, 32, 32), "layers_per_block": 1}
SCHEDULER = {
    "_class_name": "DDIMScheduler",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "steps_offset": 1,
    "clip_sample": False,
}
START, END = "<|startoftext|>", "<|endoftext|>"


def write_tokenizer(folder: Path, pad: str = END) -> None:
    """A tokenizer of CLIP's size and alphabet; its merges do not matter here."""
    folder.mkdir(parents=True, exist_ok=True)
    codes = [*range(33, 127), *range(161, 173), *range(174, 256)]
    alphabet = [chr(code) for code in codes] + [chr(256 + i) for i in range(256 - len(codes))]
    tokens = alphabet + [letter + "</w>" for letter in alphabet]
    tokens += [f"filler{i}" for i in range(49408 - 2 - len(tokens))] + [START, END]
    (folder / "vocab.json").write_text(json.dumps({t: i for i, t in enumerate(tokens)}), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
    special = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": pad, "model_max_length": 77}
    config = special | {"tokenizer_class": "CLIPTokenizer"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")


def write_base(folder: Path, name: str, device: str = "cpu") -> Path:
    """`name` is "sd15", "sdxl", "tiny", or "narrow": SD 1.5 with all its layers, but thin ones. A complete folder stays
    as it is."""
    index = folder / "model_index.json"
    if index.exists():
        return folder
    import torch
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    torch.manual_seed(0)
    xl, small = name == "sdxl", name in ("tiny", "narrow")
    unets = {"tiny": TINY_UNET, "narrow": NARROW_UNET, "sd15": SD15_UNET, "sdxl": SDXL_UNET}
    clips = [CLIP_L, CLIP_G] if xl else [CLIP_L]
    if small:
        clips = [CLIP_TINY | {"num_hidden_layers": 2 if name == "tiny" else 12}]
    with torch.device(device):
        parts = {
            "unet": UNet2DConditionModel(**unets[name]),
            "vae": AutoencoderKL(**(TINY_VAE if small else VAE), scaling_factor=0.13025 if xl else 0.18215),
        }
        for number, clip in enumerate(clips):
            kind = CLIPTextModelWithProjection if number else CLIPTextModel
            heads = HEADS[clip["hidden_size"]]
            config = CLIPTextConfig(
                vocab_size=49408, num_attention_heads=heads, hidden_act="gelu" if number else "quick_gelu", **clip
            )
            parts["text_encoder_2" if number else "text_encoder"] = kind(config)
    for part, module in parts.items():
        module.half().save_pretrained(folder / part)
    for number in range(len(clips)):
        write_tokenizer(folder / ("tokenizer_2" if number else "tokenizer"), "!" if number else END)
    (folder / "scheduler").mkdir(exist_ok=True)
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(SCHEDULER), encoding="utf-8")
    classes = {
        "_class_name": "StableDiffusionXLPipeline" if xl else "StableDiffusionPipeline",
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "scheduler": ["diffusers", "DDIMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
    }
    if xl:
        classes["text_encoder_2"] = ["transformers", "CLIPTextModelWithProjection"]
        classes["tokenizer_2"] = ["transformers", "CLIPTokenizer"]
    index.write_text(json.dumps(classes), encoding="utf-8")
    return folder


def write_pictures(folder: Path, side: int, count: int = 8) -> Path:
    """Blobs of colour, the same on every machine, with captions; in the folder that sd-scripts expects below it."""
    from PIL import Image

    below = folder / "1_thing"
    below.mkdir(parents=True, exist_ok=True)
    draw = random.Random(0)
    for number in range(count):
        small = Image.frombytes("RGB", (32, 32), bytes(draw.getrandbits(8) for _ in range(3 * 32 * 32)))
        small.resize((side, side), Image.Resampling.BICUBIC).save(below / f"{number}.png")
        (below / f"{number}.txt").write_text(f"sks thing, number {number}", encoding="utf-8")
    return folder

"""Small base models of random weights in the real layouts: diffusers folders and one-file checkpoints.

The tokenizer is the shipped base's, with 934 words, so the text encoders have as many.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from lora_train.demo.files import base_folder
from lora_train.models.ldm_keys import (
    CLIP_PREFIX,
    SD2_TEXT_PREFIX,
    SDXL_TEXT_PREFIXES,
    UNET_PREFIX,
    VAE_PREFIX,
    Translator,
    UnetShape,
    unet_pairs,
    vae_pairs,
)
from lora_train.models.open_clip_keys import to_open_clip
from lora_train.models.text import file_name_of

WORDS = 934
VAE = {
    "block_out_channels": (32, 32, 64, 64),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 1,
    "latent_channels": 4,
}
SD1_UNET = {
    "sample_size": 64,
    "block_out_channels": (32, 32, 32, 32),
    "layers_per_block": 1,
    "cross_attention_dim": 64,
    "attention_head_dim": 8,
}
SD2_UNET = {
    "sample_size": 96,
    "block_out_channels": (64, 128, 128, 128),
    "layers_per_block": 2,
    "cross_attention_dim": 64,
    "attention_head_dim": (1, 2, 2, 2),
    "use_linear_projection": True,
}
SDXL_UNET = {
    "sample_size": 128,
    "block_out_channels": (64, 128, 192),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "layers_per_block": 2,
    "cross_attention_dim": 192,
    "attention_head_dim": (1, 2, 3),
    "transformer_layers_per_block": (1, 1, 2),
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 32,
    "projection_class_embeddings_input_dim": 96 + 6 * 32,
}


@dataclass
class Tiny:
    """The modules of one small model, and its noise schedule."""

    unet: Any
    vae: Any
    text_encoders: list[Any]
    schedule: dict[str, Any]
    unused_layer: dict[str, torch.Tensor] | None = None
    """SD 2.x: what a checkpoint has of the layer that is never run, in OpenCLIP's names."""


def text_encoder(width: int, layers: int, act: str, projection: int | None = None, words: int = WORDS) -> Any:
    """A CLIP text model; with `projection` one with the pooled state."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        vocab_size=words,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        projection_dim=projection or width,
        hidden_act=act,
        bos_token_id=words - 2,
        eos_token_id=words - 1,
        pad_token_id=1,
    )
    return (CLIPTextModelWithProjection if projection else CLIPTextModel)(config).eval()


def schedule(prediction: str, zero_terminal_snr: bool = False) -> dict[str, Any]:
    """A scheduler configuration as the families' folders have it."""
    return {
        "_class_name": "EulerDiscreteScheduler",
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "num_train_timesteps": 1000,
        "prediction_type": prediction,
        "rescale_betas_zero_snr": zero_terminal_snr,
        "steps_offset": 1,
    }


def tiny_sd1(prediction: str = "epsilon", words: int = WORDS) -> Tiny:
    """SD 1.x: eight heads everywhere."""
    from diffusers import AutoencoderKL, UNet2DConditionModel

    torch.manual_seed(1)
    unet = UNet2DConditionModel(**SD1_UNET).eval()
    return Tiny(
        unet, AutoencoderKL(**VAE).eval(), [text_encoder(64, 3, "quick_gelu", words=words)], schedule(prediction)
    )


def tiny_sd2(prediction: str = "v_prediction", words: int = WORDS) -> Tiny:
    """SD 2.x: three layers that are run of a text encoder of four."""
    from diffusers import AutoencoderKL, UNet2DConditionModel

    torch.manual_seed(2)
    text = text_encoder(64, 3, "gelu", words=words)
    unused = {
        name.replace("resblocks.0.", "resblocks.3."): torch.randn_like(value)
        for name, value in to_open_clip(_named(text)).items()
        if "resblocks.0." in name
    } | {"text_projection": torch.randn(64, 64), "logit_scale": torch.tensor(4.6)}
    unet = UNet2DConditionModel(**SD2_UNET | {"sample_size": 96 if prediction == "v_prediction" else 64}).eval()
    return Tiny(unet, AutoencoderKL(**VAE).eval(), [text], schedule(prediction), unused)


def tiny_sdxl(prediction: str = "epsilon", zero_terminal_snr: bool = False, words: int = WORDS) -> Tiny:
    """SDXL."""
    from diffusers import AutoencoderKL, UNet2DConditionModel

    torch.manual_seed(3)
    return Tiny(
        UNet2DConditionModel(**SDXL_UNET).eval(),
        AutoencoderKL(**VAE, scaling_factor=0.13025).eval(),
        [text_encoder(64, 3, "quick_gelu", words=words), text_encoder(128, 3, "gelu", 96, words)],
        schedule(prediction, zero_terminal_snr),
    )


def write_folder(model: Tiny, folder: Path) -> Path:
    """The model as a diffusers folder."""
    xl = len(model.text_encoders) > 1
    for name, part in (("unet", model.unet), ("vae", model.vae)):
        part.save_pretrained(folder / name)
    for number, text in enumerate(model.text_encoders, start=1):
        suffix = f"_{number}" if number > 1 else ""
        text.save_pretrained(folder / f"text_encoder{suffix}")
        # only SD 1.x and SDXL's first pad with the end token
        write_tokenizer(folder / f"tokenizer{suffix}", pad_with_first=number > 1 or not xl)
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(model.schedule), encoding="utf-8")
    index: dict[str, Any] = {"_class_name": "StableDiffusionXLPipeline" if xl else "StableDiffusionPipeline"}
    if xl:
        index["text_encoder_2"] = ["transformers", "CLIPTextModelWithProjection"]
    (folder / "model_index.json").write_text(json.dumps(index), encoding="utf-8")
    return folder


def write_tokenizer(folder: Path, pad_with_first: bool) -> None:
    """The shipped base's tokenizer; with `pad_with_first` the word 0 ("!") fills up rows."""
    shutil.copytree(base_folder() / "tokenizer", folder)
    if pad_with_first:
        for name in ("special_tokens_map.json", "tokenizer_config.json"):
            content = json.loads((folder / name).read_text(encoding="utf-8"))
            content["pad_token"] = "!"
            (folder / name).write_text(json.dumps(content), encoding="utf-8")


def checkpoint_tensors(model: Tiny) -> dict[str, torch.Tensor]:
    """All weights under the names of an original checkpoint."""
    to_unet = Translator(unet_pairs(UnetShape.of_config(model.unet.config)))
    to_vae = Translator(vae_pairs(len(VAE["block_out_channels"]), 1))  # type: ignore[arg-type]
    out = {UNET_PREFIX + to_unet.to_ldm(name): value for name, value in model.unet.state_dict().items()}
    for name, value in model.vae.state_dict().items():
        conv = value[:, :, None, None] if ".attentions." in name and value.ndim == 2 else value
        out[VAE_PREFIX + to_vae.to_ldm(name)] = conv
    if len(model.text_encoders) > 1:
        first, second = SDXL_TEXT_PREFIXES
        out |= {first + name: value for name, value in _named(model.text_encoders[0]).items()}
        out |= {second + name: value for name, value in to_open_clip(_named(model.text_encoders[1])).items()}
        out[second + "logit_scale"] = torch.tensor(4.6)
    elif model.unused_layer is not None:
        theirs = to_open_clip(_named(model.text_encoders[0])) | model.unused_layer
        out |= {SD2_TEXT_PREFIX + name: value for name, value in theirs.items()}
    else:
        out |= {CLIP_PREFIX + name: value for name, value in _named(model.text_encoders[0]).items()}
    return {name: value.detach().clone().contiguous() for name, value in out.items()}


def write_checkpoint(
    model: Tiny, path: Path, metadata: dict[str, str] | None = None, keys: tuple[str, ...] = ()
) -> Path:
    """The model as one file, the tokenizer beside it; `keys` are empty tensors that some tools add."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = checkpoint_tensors(model) | {key: torch.tensor([]) for key in keys}
    save_file(tensors, path, metadata)
    if not (path.parent / "tokenizer").exists():
        write_tokenizer(path.parent / "tokenizer", pad_with_first=False)
    return path


def _named(text: Any) -> dict[str, torch.Tensor]:
    """Weights as files spell them, without the constant of older transformers."""
    return {file_name_of(name): value for name, value in text.state_dict().items() if "position_ids" not in name}

"""The tiny base as one `.safetensors` in the original LDM layout, which a real WebUI loads.

LDM's code has 32 norm groups hard-coded; the shipped VAE is narrower, with 4 groups. It is
widened: every group keeps its number of channels and 28 groups of zero channels are
appended. A zero channel stays zero through convolution, norm (its weight and bias are 0) and SiLU, so
the function is the same (to the rounding of the attention's query). The UNet has 32 groups of its own: LoRAs fit both.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from lora_train.atomic import write_bytes, write_text
from lora_train.demo.files import base_folder
from lora_train.errors import LoraTrainError
from lora_train.lorafile.writing import serialise
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
from lora_train.tensors import read_tensors

NAME = "lora-train-demo"
LDM_NORM_GROUPS = 32


def export_checkpoint(folder: Path, overwrite: bool = False, base: Path | None = None) -> list[Path]:
    """Write `lora-train-demo.safetensors`, its `.yaml`, and the text encoder's folder into `folder`.

    The yaml names that folder by its full path, because LDM's loader resolves paths from where the WebUI was
    started. The folder has the tokenizer and the shapes: a WebUI reads the weights from the checkpoint, and
    would list a second file with weights as another checkpoint. Returns what was written. Raises
    LoraTrainError when it already exists.
    """
    base = base or base_folder()
    checkpoint, text = folder / f"{NAME}.safetensors", folder / f"{NAME}-text"
    if checkpoint.exists() and not overwrite:
        raise LoraTrainError("the checkpoint exists already.", str(checkpoint), "Add --overwrite to replace it.")
    write_bytes(checkpoint, serialise(ldm_tensors(base), {}))
    for name in ("vocab.json", "merges.txt", "special_tokens_map.json", "tokenizer_config.json"):
        write_bytes(text / name, (base / "tokenizer" / name).read_bytes())
    write_bytes(text / "config.json", (base / "text_encoder" / "config.json").read_bytes())
    (text / "model.safetensors").unlink(missing_ok=True)  # of an earlier version
    write_text(folder / f"{NAME}.yaml", _yaml(base, text.absolute()))
    return [checkpoint, folder / f"{NAME}.yaml", text]


def ldm_tensors(base: Path) -> dict[str, torch.Tensor]:
    """All weights of the diffusers folder `base` under their LDM names."""
    unet, vae = _config(base, "unet"), _config(base, "vae")
    attention = tuple("CrossAttn" in name for name in unet["down_block_types"])
    to_unet = Translator(unet_pairs(UnetShape(unet["layers_per_block"], attention)))
    to_vae = Translator(vae_pairs(len(vae["block_out_channels"]), vae["layers_per_block"]))
    out = {}
    for name, value in read_tensors(base / "unet" / "diffusion_pytorch_model.safetensors").items():
        out[UNET_PREFIX + to_unet.to_ldm(name)] = value
    factor = LDM_NORM_GROUPS // vae["norm_num_groups"]
    for name, value in read_tensors(base / "vae" / "diffusion_pytorch_model.safetensors").items():
        if ".attentions." in name and value.ndim == 2:
            value = value[:, :, None, None]
        out[VAE_PREFIX + to_vae.to_ldm(name)] = widen(name, value, factor)
    for name, value in read_tensors(base / "text_encoder" / "model.safetensors").items():
        out[CLIP_PREFIX + file_name_of(name)] = value
    return out


def widen(name: str, value: torch.Tensor, factor: int) -> torch.Tensor:
    """A VAE weight with `factor` times as many channels, the new ones zero.

    Channels of inputs and outputs (pixels, latents) keep their number. The attention's query is scaled by
    sqrt(factor), because attention divides by the square root of the (now larger) width.
    """
    inner_out = not name.startswith(("decoder.conv_out", "encoder.conv_out", "quant_conv", "post_quant_conv"))
    inner_in = not name.startswith(("encoder.conv_in", "decoder.conv_in", "quant_conv", "post_quant_conv"))
    shape = list(value.shape)
    if inner_out:
        shape[0] *= factor
    if value.ndim > 1 and inner_in:
        shape[1] *= factor
    out = torch.zeros(shape, dtype=value.dtype)
    out[tuple(slice(0, size) for size in value.shape)] = value
    return out * factor**0.5 if ".to_q." in name else out


def narrow(name: str, value: torch.Tensor, like: torch.Tensor, factor: int) -> torch.Tensor:
    """The inverse of `widen`: the part of `value` that has the shape of `like`."""
    part = value[tuple(slice(0, size) for size in like.shape)]
    return part / factor**0.5 if ".to_q." in name else part


def _config(base: Path, part: str) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((base / part / "config.json").read_text(encoding="utf-8"))
    return config


def _yaml(base: Path, text: Path) -> str:
    """The WebUI's model configuration. JSON is valid YAML, which saves a dependency."""
    unet, vae = _config(base, "unet"), _config(base, "vae")
    schedule = json.loads((base / "scheduler" / "scheduler_config.json").read_text(encoding="utf-8"))
    widths, vae_widths = unet["block_out_channels"], vae["block_out_channels"]
    factor = LDM_NORM_GROUPS // vae["norm_num_groups"]
    attention = [2**i for i, name in enumerate(unet["down_block_types"]) if "CrossAttn" in name]
    params = {
        "linear_start": schedule["beta_start"],
        "linear_end": schedule["beta_end"],
        "num_timesteps_cond": 1,
        "parameterization": "v" if schedule["prediction_type"] == "v_prediction" else "eps",
        "timesteps": schedule["num_train_timesteps"],
        "first_stage_key": "jpg",
        "cond_stage_key": "txt",
        "image_size": unet["sample_size"],
        "channels": 4,
        "cond_stage_trainable": False,
        "conditioning_key": "crossattn",
        "scale_factor": vae["scaling_factor"],
        "use_ema": False,
        "unet_config": {
            "target": "ldm.modules.diffusionmodules.openaimodel.UNetModel",
            "params": {
                "image_size": unet["sample_size"],
                "in_channels": 4,
                "out_channels": 4,
                "model_channels": widths[0],
                "attention_resolutions": attention,
                "num_res_blocks": unet["layers_per_block"],
                "channel_mult": [width // widths[0] for width in widths],
                "num_heads": unet["attention_head_dim"],
                "use_spatial_transformer": True,
                "transformer_depth": 1,
                "context_dim": unet["cross_attention_dim"],
                "use_checkpoint": False,
                "legacy": False,
            },
        },
        "first_stage_config": {
            "target": "ldm.models.autoencoder.AutoencoderKL",
            "params": {
                "embed_dim": 4,
                "ddconfig": {
                    "double_z": True,
                    "z_channels": 4,
                    "resolution": vae["sample_size"],
                    "in_channels": 3,
                    "out_ch": 3,
                    "ch": vae_widths[0] * factor,
                    "ch_mult": [width // vae_widths[0] for width in vae_widths],
                    "num_res_blocks": vae["layers_per_block"],
                    "attn_resolutions": [],
                    "dropout": 0.0,
                },
                "lossconfig": {"target": "torch.nn.Identity"},
            },
        },
        "cond_stage_config": {
            "target": "ldm.modules.encoders.modules.FrozenCLIPEmbedder",
            "params": {"version": str(text), "device": "cpu"},
        },
    }
    content = {"model": {"target": "ldm.models.diffusion.ddpm.LatentDiffusion", "params": params}}
    return json.dumps(content, indent=2) + "\n"

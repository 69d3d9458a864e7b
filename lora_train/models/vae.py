"""A VAE from a file or folder of its own, in place of the base model's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from lora_train.errors import LoraTrainError
from lora_train.models.filling import fill
from lora_train.models.ldm_keys import VAE_PREFIX, Translator, vae_pairs
from lora_train.tensors import read_tensors

_WEIGHTS = tuple(f"diffusion_pytorch_model.{ending}" for ending in ("safetensors", "fp16.safetensors", "bin"))
_NOT_USED = ("loss.", "model_ema.")
_FIX = "Give a VAE for this kind of base model: a .safetensors, .ckpt or .pt file, or a diffusers folder."


def load_vae(path: Path, like: Any) -> Any:
    """The VAE at `path`, which has the configuration of `like`, the base model's own.

    A file has LDM's names, with or without the prefix of a whole checkpoint, or diffusers'; a folder is diffusers', the
    VAE's own or a model's. Raises LoraTrainError.
    """
    from diffusers import AutoencoderKL

    named = _in_diffusers_names(read_tensors(_file_of(path), _FIX, stand_ins=True), like)
    config = {name: value for name, value in like.config.items() if not name.startswith("_")}
    wanted = {name: tuple(value.shape) for name, value in like.state_dict().items()}
    wrong = [name for name, shape in wanted.items() if name not in named or tuple(named[name].shape) != shape]
    if wrong:
        what = f"{len(wrong)} of {len(wanted)} tensors are missing or of other sizes ({wrong[0]})"
        raise LoraTrainError(f"this is no VAE for this base model: {what}.", str(path), _FIX)
    made, _ = fill(lambda: AutoencoderKL(**config), {name: named[name] for name in wanted})
    return made


def _file_of(path: Path) -> Path:
    if not path.is_dir():
        return path
    found = [file for folder in (path, path / "vae") for name in _WEIGHTS if (file := folder / name).is_file()]
    if not found:
        raise LoraTrainError("there is no VAE in this folder.", str(path), _FIX)
    return found[0]


def _in_diffusers_names(tensors: dict[str, torch.Tensor], like: Any) -> dict[str, torch.Tensor]:
    inside = {name[len(VAE_PREFIX) :]: value for name, value in tensors.items() if name.startswith(VAE_PREFIX)}
    tensors = inside or tensors
    if not any(name.startswith("encoder.down.") for name in tensors):
        return tensors
    translator = Translator(vae_pairs(len(like.config.block_out_channels), like.config.layers_per_block))
    named = {}
    for name, value in tensors.items():
        if not name.startswith(_NOT_USED):
            ours = translator.to_diffusers(name)
            # LDM writes the attention's projections as 1x1 convolutions
            named[ours] = value[:, :, 0, 0] if ".attentions." in ours and value.ndim == 4 else value
    return named

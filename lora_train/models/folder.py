"""Base models as diffusers folders, read offline."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from lora_train.errors import LoraTrainError
from lora_train.models.base import Look, Parts
from lora_train.models.filling import fill
from lora_train.models.ldm_configs import LAYOUTS
from lora_train.models.prediction import Assumed, settle
from lora_train.models.text import build_text_encoder
from lora_train.records.families import FAMILIES, titles
from lora_train.tensors import read_header, read_tensors

_MODEL, _TEXT = "diffusion_pytorch_model", "model"
_ENCODERS = {
    name: tuple((side.component, side.component.replace("text_encoder", "tokenizer")) for side in family.texts)
    for name, family in FAMILIES.items()
}
"""A family's sub-folders with text encoders, and those with their tokenizers."""
_PROJECTED = ("text_encoder_2",)
"""Those whose pooled, projected state the UNet receives."""


def recognise_folder(path: Path) -> str:
    """The family of a diffusers folder, from its index and configurations. Raises LoraTrainError."""
    index = _json(path / "model_index.json")
    kind = str(index.get("_class_name", ""))
    if not (path / "unet").is_dir() and ((path / "transformer").is_dir() or "StableDiffusion" not in kind):
        raise LoraTrainError(f"this is a {kind or 'model of another kind'}; {titles()} can be trained.", str(path))
    family = "sdxl" if "text_encoder_2" in index or kind.startswith("StableDiffusionXL") else "sd1"
    needed = ["unet", "vae", *(name for pair in _ENCODERS[family] for name in pair)]
    missing = [name for name in needed if not (path / name).is_dir()]
    if missing == ["text_encoder", "tokenizer"]:
        raise LoraTrainError("this is the SDXL refiner, which is not a base model.", str(path), "Use the base.")
    if missing:
        raise LoraTrainError(
            f"the model folder lacks {', '.join(missing)}.", str(path), "Copy the whole diffusers folder."
        )
    config = _json(path / "unet" / "config.json")
    channels = FAMILIES[family].latents.channels
    if config.get("in_channels", channels) != channels:
        raise LoraTrainError("the UNet takes extra channels (an inpainting model).", str(path), "Use another.")
    if config.get("class_embed_type"):
        raise LoraTrainError("the UNet takes a picture's embedding (unCLIP).", str(path), "Use another.")
    if family == "sd1" and config.get("use_linear_projection"):
        family = "sd2"
    for name, stem in (("unet", _MODEL), ("vae", _MODEL), *((name, _TEXT) for name, _ in _ENCODERS[family])):
        for file in _weights_files(path / name, stem):
            if file.suffix == ".safetensors":
                read_header(file)  # an interrupted copy is noticed before anything starts
    return family


def look_at_folder(path: Path) -> Look:
    """A diffusers folder by its index and configurations. Raises LoraTrainError."""
    family = recognise_folder(path)
    file = path / "scheduler" / "scheduler_config.json"
    schedule = _json(file) if file.is_file() else {}
    side = _json(path / "unet" / "config.json").get("sample_size")
    factor = FAMILIES[family].latents.factor
    return Look(family, schedule, factor * (side if isinstance(side, int) else LAYOUTS[family].sample_size[0]))


def load_folder_parts(path: Path, assumed: Assumed = Assumed()) -> Parts:
    """Load UNet, VAE, text encoders and tokenizers of a diffusers folder, in the dtype of their files.

    Raises LoraTrainError.
    """
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTokenizer

    look = look_at_folder(path)
    encoders = _ENCODERS[look.family]
    schedule, notes = settle(look.schedule, assumed)
    try:
        return Parts(
            source=path,
            unet=_model(UNet2DConditionModel, path / "unet"),
            vae=_model(AutoencoderKL, path / "vae"),
            text_encoders=[_text(path / name) for name, _ in encoders],
            tokenizers=[CLIPTokenizer.from_pretrained(path / name) for _, name in encoders],
            padding=(None,) * len(encoders),
            scheduler_config=schedule,
            notes=notes,
            family=look.family,
        )
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise LoraTrainError(f"the model folder is damaged ({error}).", str(path), "Copy it again.") from error


def _text(folder: Path) -> Any:
    from transformers import CLIPTextConfig

    config = CLIPTextConfig.from_pretrained(folder)
    model, missing = build_text_encoder(config, _weights(folder, _TEXT), projected=folder.name in _PROJECTED)
    if missing:
        raise ValueError(f"{folder.name} lacks {missing[0]}")
    return model


def _model(cls: Any, folder: Path) -> Any:
    """A diffusers model with its weights."""
    config = cls.load_config(folder)
    model, missing = fill(lambda: cls.from_config(config), _weights(folder, _MODEL))
    if missing:
        raise ValueError(f"{folder.name} lacks {missing[0]}")
    return model


def _weights(folder: Path, stem: str) -> dict[str, torch.Tensor]:
    tensors: dict[str, torch.Tensor] = {}
    for file in _weights_files(folder, stem):
        tensors |= read_tensors(file)
    return tensors


def _weights_files(folder: Path, stem: str) -> list[Path]:
    """The one file with the weights, or all that a large model was split into."""
    for name in (f"{stem}.safetensors", f"{stem}.fp16.safetensors", f"{stem}.bin", "pytorch_model.bin"):
        if (folder / name).is_file():
            return [folder / name]
    for name in (f"{stem}.safetensors.index.json", f"{stem}.safetensors.index.fp16.json"):
        if (folder / name).is_file():
            named = sorted({Path(str(part)).name for part in _json(folder / name).get("weight_map", {}).values()})
            missing = [part for part in named if not (folder / part).is_file()]
            if named and not missing:
                return [folder / part for part in named]
    raise LoraTrainError("there are no weights in this folder.", str(folder), "Copy the whole diffusers folder.")


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise LoraTrainError(f"cannot read the file: {error.strerror}.", str(path)) from error
    except (ValueError, RecursionError) as error:
        raise LoraTrainError("this is not a JSON file.", str(path)) from error
    return content if isinstance(content, dict) else {}

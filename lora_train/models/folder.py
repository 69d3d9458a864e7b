"""Base models as diffusers folders, read offline."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lora_train.errors import LoraTrainError
from lora_train.models.base import Parts
from lora_train.models.text import load_text_weights
from lora_train.tensors import read_tensors

_WEIGHTS = {
    "unet": "diffusion_pytorch_model",
    "vae": "diffusion_pytorch_model",
    "text_encoder": "model",
}


def recognise_folder(path: Path) -> str:
    """The family ("sd1") of a diffusers folder, from its index. Raises LoraTrainError."""
    index = _json(path / "model_index.json")
    if "text_encoder_2" in index or str(index.get("_class_name", "")).startswith("StableDiffusionXL"):
        raise LoraTrainError("this is an SDXL model; only SD 1.x can be trained so far.", str(path))
    missing = [name for name in ("unet", "vae", "text_encoder", "tokenizer") if not (path / name).is_dir()]
    if missing:
        raise LoraTrainError(
            f"the model folder lacks {', '.join(missing)}.", str(path), "Copy the whole diffusers folder."
        )
    config = _json(path / "unet" / "config.json")
    if config.get("in_channels", 4) != 4:
        raise LoraTrainError("the UNet takes extra channels (an inpainting model).", str(path), "Use another.")
    if _json(path / "text_encoder" / "config.json").get("hidden_size") == 1024:
        raise LoraTrainError("this is an SD 2.x model; only SD 1.x can be trained so far.", str(path))
    for name, stem in _WEIGHTS.items():
        _weights_file(path / name, stem)
    return "sd1"


def load_folder_parts(path: Path) -> Parts:
    """Load UNet, VAE, text encoder and tokenizer of a diffusers folder. Raises LoraTrainError."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    recognise_folder(path)
    try:
        text = CLIPTextModel(CLIPTextConfig.from_pretrained(path / "text_encoder"))
        missing, _ = load_text_weights(text, read_tensors(_weights_file(path / "text_encoder", "model")))
        if missing:
            raise ValueError(f"the text encoder lacks {missing[0]}")
        scheduler = path / "scheduler" / "scheduler_config.json"
        return Parts(
            source=path,
            unet=_model(UNet2DConditionModel, path / "unet"),
            vae=_model(AutoencoderKL, path / "vae"),
            text_encoders=[text],
            tokenizers=[CLIPTokenizer.from_pretrained(path / "tokenizer")],
            scheduler_config=_json(scheduler) if scheduler.is_file() else {},
        )
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise LoraTrainError(f"the model folder is damaged ({error}).", str(path), "Copy it again.") from error


def _model(cls: Any, folder: Path) -> Any:
    """A diffusers model with its weights in fp32 (whatever they are stored in)."""
    model = cls.from_config(cls.load_config(folder))
    missing, _ = model.load_state_dict(read_tensors(_weights_file(folder, "diffusion_pytorch_model")), strict=False)
    if missing:
        raise ValueError(f"{folder.name} lacks {missing[0]}")
    return model


def _weights_file(folder: Path, stem: str) -> Path:
    for name in (f"{stem}.safetensors", f"{stem}.fp16.safetensors", f"{stem}.bin", "pytorch_model.bin"):
        if (folder / name).is_file():
            return folder / name
    raise LoraTrainError("there are no weights in this folder.", str(folder), "Copy the whole diffusers folder.")


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise LoraTrainError(f"cannot read the file: {error.strerror}.", str(path)) from error
    except ValueError as error:
        raise LoraTrainError("this is not a JSON file.", str(path)) from error
    return content if isinstance(content, dict) else {}

"""One-file checkpoints in the original (LDM) layout, read offline.

The model's shape is read off its tensors, so no configuration is needed; a `.yaml` of the same name
beside the file, as the WebUI reads it, adds what tensors do not show (heads, noise schedule, latent
scale, the text encoder's folder).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from lora_train.errors import LoraTrainError
from lora_train.models.base import Parts
from lora_train.models.ldm_keys import (
    CLIP_PREFIX,
    UNET_PREFIX,
    VAE_PREFIX,
    Translator,
    UnetShape,
    unet_pairs,
    vae_pairs,
)
from lora_train.models.text import load_text_weights
from lora_train.models.tokenizers import clip_tokenizer
from lora_train.tensors import GIVE_ANOTHER, read_header, read_tensors

SD_SCALE = 0.18215

Shapes = Mapping[str, tuple[int, ...]]


def recognise_file(path: Path) -> str:
    """The family ("sd1") of a one-file checkpoint, from its names and shapes.

    For safetensors only the header is read. Raises LoraTrainError when it is none that can be trained.
    """
    return recognise_shapes(_shapes(path), path)


def recognise_shapes(shapes: Shapes, path: Path) -> str:
    """As `recognise_file`, from names and shapes."""
    if not any(name.startswith(UNET_PREFIX) for name in shapes):
        if any("lora_" in name for name in shapes):
            raise LoraTrainError("this is a LoRA, not a base model.", str(path), GIVE_ANOTHER)
        raise LoraTrainError("this is not a Stable Diffusion checkpoint.", str(path), GIVE_ANOTHER)
    if f"{UNET_PREFIX}label_emb.0.0.weight" in shapes:
        raise LoraTrainError("this is an SDXL checkpoint; only SD 1.x can be trained so far.", str(path), GIVE_ANOTHER)
    if any(name.startswith("cond_stage_model.model.") for name in shapes):
        raise LoraTrainError(
            "this is an SD 2.x checkpoint; only SD 1.x can be trained so far.", str(path), GIVE_ANOTHER
        )
    for prefix, what in ((VAE_PREFIX, "VAE"), (CLIP_PREFIX, "text encoder")):
        if not any(name.startswith(prefix) for name in shapes):
            raise LoraTrainError(f"the checkpoint has no {what}.", str(path), "Use a complete checkpoint.")
    inputs = shapes.get(f"{UNET_PREFIX}input_blocks.0.0.weight", (0, 0))[1]
    if inputs != 4:
        raise LoraTrainError(
            f"the UNet takes {inputs} channels (an inpainting or other special model).", str(path), GIVE_ANOTHER
        )
    return "sd1"


def load_file_parts(path: Path, tokenizers: Callable[[], list[Any]]) -> Parts:
    """Build and fill UNet, VAE, text encoder and tokenizer of an SD 1.x file. Raises LoraTrainError."""
    tensors = read_tensors(path)
    recognise_shapes({name: tuple(value.shape) for name, value in tensors.items()}, path)
    yaml = _beside(path)
    folder = _text_folder(path, yaml)
    text = _build_text(_under(tensors, CLIP_PREFIX), folder, path)
    return Parts(
        source=path,
        unet=_build_unet(_under(tensors, UNET_PREFIX), yaml, path),
        vae=_build_vae(_under(tensors, VAE_PREFIX), yaml, path),
        text_encoders=[text],
        tokenizers=[clip_tokenizer(folder, tokenizers, text.config.vocab_size)],
        scheduler_config=_schedule(yaml),
    )


def _shapes(path: Path) -> Shapes:
    if path.suffix.lower() != ".safetensors":
        return {name: tuple(value.shape) for name, value in read_tensors(path).items()}
    header = read_header(path)
    return {
        name: tuple(entry["shape"])  # type: ignore[arg-type]
        for name, entry in header.items()
        if name != "__metadata__" and isinstance(entry, dict) and isinstance(entry.get("shape"), list)
    }


def _beside(path: Path) -> dict[str, Any]:
    """`model.params` of the yaml beside the checkpoint; empty without one."""
    file = path.with_suffix(".yaml")
    if not file.is_file():
        return {}
    import yaml

    try:
        return dict(yaml.safe_load(file.read_text(encoding="utf-8"))["model"]["params"])
    except (yaml.YAMLError, KeyError, TypeError, ValueError, OSError) as error:
        raise LoraTrainError(
            "the file beside the checkpoint is not a model configuration.", str(file), "Repair or remove it."
        ) from error


def _text_folder(path: Path, yaml: dict[str, Any]) -> Path | None:
    """A local folder with the text encoder's configuration and tokenizer, if the yaml names one."""
    named = yaml.get("cond_stage_config", {}).get("params", {}).get("version")
    candidates = [Path(named), path.parent / Path(named).name] if named else []
    for folder in [*candidates, path.parent / "tokenizer"]:
        if (folder / "vocab.json").is_file():
            return folder
    return None


def _under(tensors: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {name[len(prefix) :]: value for name, value in tensors.items() if name.startswith(prefix)}


def _numbers(names: Iterable[str], pattern: str) -> list[int]:
    found = {int(match[1]) for name in names if (match := re.match(pattern, name))}
    return sorted(found)


def unet_config(shapes: Shapes, heads: int) -> tuple[dict[str, Any], UnetShape]:
    """diffusers' configuration of an LDM UNet (names without prefix), read off its shapes."""
    last = _numbers(shapes, r"input_blocks\.(\d+)\.")[-1]
    downs = [i for i in range(last + 1) if f"input_blocks.{i}.0.op.weight" in shapes]
    layers = downs[0] - 1 if downs else last
    levels = len(downs) + 1
    firsts = [1 + level * (layers + 1) for level in range(levels)]
    attention = tuple(f"input_blocks.{i}.1.norm.weight" in shapes for i in firsts)
    widths = tuple(shapes[f"input_blocks.{i}.0.out_layers.3.weight"][0] for i in firsts)
    context = shapes["middle_block.1.transformer_blocks.0.attn2.to_k.weight"][1]
    names = ["CrossAttn" if has else "" for has in attention]
    config = {
        "in_channels": shapes["input_blocks.0.0.weight"][1],
        "out_channels": shapes["out.2.weight"][0],
        "block_out_channels": widths,
        "layers_per_block": layers,
        "down_block_types": tuple(f"{name}DownBlock2D" for name in names),
        "up_block_types": tuple(f"{name}UpBlock2D" for name in reversed(names)),
        "cross_attention_dim": context,
        "attention_head_dim": heads,  # diffusers' historical name for the number of heads
        "use_linear_projection": len(shapes["middle_block.1.proj_in.weight"]) == 2,
    }
    return config, UnetShape(layers, attention)


def vae_config(shapes: Shapes, scale: float) -> dict[str, Any]:
    """diffusers' configuration of an LDM VAE (names without prefix), read off its shapes."""
    levels = len(_numbers(shapes, r"encoder\.down\.(\d+)\."))
    layers = len(_numbers(shapes, r"encoder\.down\.0\.block\.(\d+)\."))
    return {
        "block_out_channels": tuple(shapes[f"encoder.down.{i}.block.0.conv2.weight"][0] for i in range(levels)),
        "down_block_types": ("DownEncoderBlock2D",) * levels,
        "up_block_types": ("UpDecoderBlock2D",) * levels,
        "layers_per_block": layers,
        "latent_channels": shapes["post_quant_conv.weight"][1],
        "scaling_factor": scale,
    }


def _build_unet(weights: dict[str, torch.Tensor], yaml: dict[str, Any], path: Path) -> Any:
    from diffusers import UNet2DConditionModel

    params = yaml.get("unet_config", {}).get("params", {})
    with _shape_errors(path, "UNet"):
        shapes = {name: tuple(value.shape) for name, value in weights.items()}
        config, shape = unet_config(shapes, int(params.get("num_heads", 8)))
        config["sample_size"] = int(yaml.get("image_size", 64))
        translator = Translator(unet_pairs(shape))
        named = {translator.to_diffusers(name): value for name, value in weights.items()}
        return _fill(UNet2DConditionModel(**config), named, path, "UNet")


def _build_vae(weights: dict[str, torch.Tensor], yaml: dict[str, Any], path: Path) -> Any:
    from diffusers import AutoencoderKL

    with _shape_errors(path, "VAE"):
        weights = {n: v for n, v in weights.items() if not n.startswith(("loss.", "model_ema."))}
        shapes = {name: tuple(value.shape) for name, value in weights.items()}
        config = vae_config(shapes, float(yaml.get("scale_factor", SD_SCALE)))
        translator = Translator(vae_pairs(len(config["block_out_channels"]), config["layers_per_block"]))
        named = {}
        for name, value in weights.items():
            ours = translator.to_diffusers(name)
            # LDM writes the attention's projections as 1x1 convolutions
            named[ours] = value[:, :, 0, 0] if ".attentions." in ours and value.ndim == 4 else value
        return _fill(AutoencoderKL(**config), named, path, "VAE")


def _build_text(weights: dict[str, torch.Tensor], folder: Path | None, path: Path) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel

    with _shape_errors(path, "text encoder"):
        if folder is not None and (folder / "config.json").is_file():
            config = CLIPTextConfig.from_pretrained(folder)
        else:
            config = _text_config({name.removeprefix("text_model."): tuple(v.shape) for name, v in weights.items()})
        model = CLIPTextModel(config)
        missing, _ = load_text_weights(model, weights)
        _complain(missing, path, "text encoder")
        return model


def _text_config(shapes: Shapes) -> Any:
    from transformers import CLIPTextConfig

    vocabulary, width = shapes["embeddings.token_embedding.weight"]
    return CLIPTextConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=shapes["encoder.layers.0.mlp.fc1.weight"][0],
        projection_dim=width,
        num_hidden_layers=len(_numbers(shapes, r"encoder\.layers\.(\d+)\.")),
        num_attention_heads=max(1, width // 64),
        max_position_embeddings=shapes["embeddings.position_embedding.weight"][0],
        bos_token_id=vocabulary - 2,
        eos_token_id=vocabulary - 1,
        pad_token_id=1,
    )


def _schedule(yaml: dict[str, Any]) -> dict[str, Any]:
    """diffusers' scheduler configuration from the yaml's, Stable Diffusion's where it says nothing."""
    return {
        "beta_schedule": "scaled_linear",
        "beta_start": float(yaml.get("linear_start", 0.00085)),
        "beta_end": float(yaml.get("linear_end", 0.012)),
        "num_train_timesteps": int(yaml.get("timesteps", 1000)),
        "prediction_type": "v_prediction" if yaml.get("parameterization") == "v" else "epsilon",
    }


def _fill(model: torch.nn.Module, weights: dict[str, torch.Tensor], path: Path, what: str) -> torch.nn.Module:
    missing, _ = model.load_state_dict(weights, strict=False)
    _complain(missing, path, what)
    return model


def _complain(missing: list[str], path: Path, what: str) -> None:
    if missing:
        named = ", ".join(missing[:3]) + (" ..." if len(missing) > 3 else "")
        raise LoraTrainError(
            f"the {what} in the checkpoint lacks {len(missing)} weights ({named}).",
            str(path),
            "Download the checkpoint again, or use another.",
        )


class _shape_errors:
    """Turns KeyError and size mismatches from building a model into a LoraTrainError."""

    def __init__(self, path: Path, what: str) -> None:
        self.path, self.what = path, what

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if isinstance(error, (KeyError, IndexError, RuntimeError, ValueError)):
            raise LoraTrainError(
                f"the {self.what} in the checkpoint has an unknown shape.", str(self.path), GIVE_ANOTHER
            ) from error

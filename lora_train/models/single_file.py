"""Single-file checkpoints in the original layouts (LDM, OpenCLIP, `sgm`), read offline.

The model's shape is derived from its tensors, so no configuration is needed; a `.yaml` of the same name
beside the file, as the WebUI reads it, adds what tensors do not show (heads, noise schedule, latent
scale, the text encoder's folder).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch

from lora_train.errors import LoraTrainError
from lora_train.models.base import Look, Parts
from lora_train.models.beside import Beside, read_beside
from lora_train.models.checkpoint_names import EMA, left_out, remarks, usual_names
from lora_train.models.filling import fill
from lora_train.models.ldm_configs import (
    LAYOUTS,
    Layout,
    Shapes,
    TextLayout,
    numbers,
    picture_size_inputs,
    text_config,
    unet_config,
    vae_config,
)
from lora_train.models.ldm_keys import (
    CLIP_PREFIX,
    SD2_TEXT_PREFIX,
    SDXL_TEXT_PREFIXES,
    UNET_PREFIX,
    VAE_PREFIX,
    Translator,
    unet_pairs,
    vae_pairs,
)
from lora_train.models.open_clip_keys import to_transformers
from lora_train.models.prediction import Assumed, Clues, Prediction, V, prediction_of, settle
from lora_train.models.text import build_text_encoder, file_name_of
from lora_train.models.tokenizers import OPEN_CLIP_PAD, TokenizerSources, clip_tokenizer, find_tokenizer
from lora_train.records.families import FAMILIES
from lora_train.tensors import (
    GIVE_ANOTHER,
    header_metadata,
    holds_safetensors,
    read_header,
    read_shapes,
    read_tensors,
)


def recognise_shapes(shapes: Shapes, path: Path) -> str:
    """The family of a single-file checkpoint, from its names and shapes.

    Raises LoraTrainError when it cannot be trained.
    """
    if not any(name.startswith(UNET_PREFIX) for name in shapes):
        if any("lora_" in name for name in shapes):
            raise LoraTrainError("this is a LoRA, not a base model.", str(path), GIVE_ANOTHER)
        if any(name.startswith(EMA) for name in shapes):
            what = "the checkpoint holds only averaged weights (EMA), without the model itself."
            raise LoraTrainError(what, str(path), "Use the full checkpoint, or the one named pruned or emaonly.")
        raise LoraTrainError("this is not a Stable Diffusion checkpoint.", str(path), GIVE_ANOTHER)
    _require_plain(shapes, path)
    family = _family(shapes, path)
    for prefix, what in ((VAE_PREFIX, "VAE"), *((text.prefix, "text encoder") for text in LAYOUTS[family].text)):
        if not any(name.startswith(prefix) for name in shapes):
            raise LoraTrainError(f"the checkpoint has no {what}.", str(path), "Use a complete checkpoint.")
    inputs, channels = shapes.get(f"{UNET_PREFIX}input_blocks.0.0.weight", (0, 0))[1], FAMILIES[family].latents.channels
    if inputs != channels:
        raise LoraTrainError(
            f"its UNet has {inputs} input channels; only {channels} can be trained (not inpainting or depth models).",
            str(path),
            "Use another checkpoint.",
        )
    return family


def _require_plain(names: Collection[str], path: Path) -> None:
    """Raise LoraTrainError for a UNet whose weights do not mean what they seem to."""
    for end, what in (
        (("scaled_fp8", ".scale_weight", ".weight_scale"), "its weights have scales beside them (scaled fp8)"),
        (("edm_mean", "edm_std", "edm_vpred.sigma_max"), "it was trained with another noise process (EDM)"),
        ((".absmax", ".quant_map", ".qweight"), "its weights are quantised"),
    ):
        if any(name.endswith(end) for name in names):
            raise LoraTrainError(f"{what}, which cannot be read here.", str(path), "Use the model in fp16 or bf16.")


def _family(shapes: Shapes, path: Path) -> str:
    def has(prefix: str) -> bool:
        return any(name.startswith(prefix) for name in shapes)

    if f"{UNET_PREFIX}label_emb.0.0.weight" in shapes:
        if has(SD2_TEXT_PREFIX):
            raise LoraTrainError("its UNet takes a picture's embedding (unCLIP).", str(path), "Use another.")
        if has("conditioner.embedders.0.model.") and not has(SDXL_TEXT_PREFIXES[1]):
            raise LoraTrainError("this is the SDXL refiner, which is not a base model.", str(path), "Use the base.")
        return "sdxl"
    if has(SD2_TEXT_PREFIX):
        return "sd2"
    words = shapes.get(f"{CLIP_PREFIX}text_model.embeddings.token_embedding.weight", (0, 0))
    if words[1] == 1024:
        raise LoraTrainError(
            "this is an SD 2.x checkpoint with its text encoder under transformers' names.",
            str(path),
            "Convert it to a diffusers folder.",
        )
    return "sd1"


def look_at_file(path: Path) -> Look:
    """A single-file checkpoint, from what is in it and beside it; of safetensors only the header is read.

    Raises LoraTrainError.
    """
    shapes, beside = _shapes(path), read_beside(path)
    family = recognise_shapes(shapes, path)
    said = _prediction(family, path, shapes, beside)
    side = beside.sample_size or LAYOUTS[family].sample_size[said.kind == V]
    return Look(family, _schedule(beside, said), FAMILIES[family].latents.factor * side)


def require_tokenizer_for(path: Path, sources: TokenizerSources) -> None:
    """Raise LoraTrainError where there is no tokenizer for a single-file checkpoint. Loads neither."""
    shapes = _shapes(path)
    text = LAYOUTS[recognise_shapes(shapes, path)].text[0]
    embeddings = [shape for name, shape in shapes.items() if name.startswith(text.prefix) and name.endswith(_WORDS)]
    if not embeddings:
        raise LoraTrainError("the checkpoint's text encoder has no vocabulary.", str(path), "Use another checkpoint.")
    find_tokenizer(_text_folder(path, read_beside(path)), sources, embeddings[0][0])


_WORDS = "token_embedding.weight"


def load_file_parts(path: Path, tokenizers: TokenizerSources, assumed: Assumed = Assumed()) -> Parts:
    """Load a single-file checkpoint, in its own dtype. `tokenizers` is where one may come from.

    Raises LoraTrainError.
    """
    _, foreign = read_shapes(path)
    tensors = read_tensors(path, stand_ins=True)
    remarked = remarks({name: str(value.dtype).removeprefix("torch.") for name, value in tensors.items()}, foreign)
    usual = usual_names(tensors)
    tensors = {usual[name]: value for name, value in tensors.items()}
    shapes = {name: tuple(value.shape) for name, value in tensors.items()}
    family = recognise_shapes(shapes, path)
    layout, beside = LAYOUTS[family], read_beside(path)
    said = _prediction(family, path, shapes, beside)
    schedule, notes = settle(_schedule(beside, said), assumed)
    folder = _text_folder(path, beside)
    encoders = [_build_text(_under(tensors, text.prefix), text, folder, path, remarked) for text in layout.text]
    words = clip_tokenizer(folder, tokenizers, encoders[0].config.vocab_size)
    sample_size = layout.sample_size[schedule["prediction_type"] == V]
    return Parts(
        source=path,
        unet=_build_unet(
            _under(tensors, UNET_PREFIX), layout, beside, sample_size, encoders[-1].config, path, remarked
        ),
        vae=_build_vae(_under(tensors, VAE_PREFIX), layout, beside, path, remarked),
        text_encoders=encoders,
        tokenizers=[words] * len(encoders),
        padding=tuple(OPEN_CLIP_PAD if text.open_clip else None for text in layout.text),
        scheduler_config=schedule,
        notes=tuple(filter(None, (*(notes or (said.note,)), beside.note, *remarked))),
        family=family,
    )


def _shapes(path: Path) -> Shapes:
    shapes, _ = read_shapes(path)
    usual = usual_names(shapes)
    return {usual[name]: shape for name, shape in shapes.items()}


def _prediction(family: str, path: Path, names: Collection[str], beside: Beside) -> Prediction:
    metadata = header_metadata(read_header(path)) if holds_safetensors(path) else {}
    return prediction_of(Clues(family, path, names, beside.params, metadata))


def _text_folder(path: Path, beside: Beside) -> Path | None:
    """A local folder with the text encoder's configuration and tokenizer, if the yaml names one."""
    named = beside.text
    candidates = [Path(named), path.parent / Path(named).name] if named else []
    for folder in [*candidates, path.parent / "tokenizer"]:
        if (folder / "vocab.json").is_file():
            return folder
    return None


def _under(tensors: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {name[len(prefix) :]: value for name, value in tensors.items() if name.startswith(prefix)}


def _build_unet(
    weights: dict[str, torch.Tensor],
    layout: Layout,
    beside: Beside,
    sample_size: int,
    text: Any,
    path: Path,
    said: list[str],
) -> Any:
    from diffusers import UNet2DConditionModel

    with _shape_errors(path, "UNet"):
        shapes = {name: tuple(value.shape) for name, value in weights.items()}
        config, shape = unet_config(shapes, layout, beside.unet)
        config["sample_size"] = beside.sample_size or sample_size
        if "label_emb.0.0.weight" in shapes:
            config |= picture_size_inputs(shapes, text.projection_dim)
        translator = Translator(unet_pairs(shape))
        named = {translator.to_diffusers(name): value for name, value in weights.items()}
        model, missing = fill(lambda: UNet2DConditionModel(**config), named)
    _complain(missing, path, "UNet")
    said += left_out(named, model.state_dict(), "UNet")
    return model


def _build_vae(weights: dict[str, torch.Tensor], layout: Layout, beside: Beside, path: Path, said: list[str]) -> Any:
    from diffusers import AutoencoderKL

    with _shape_errors(path, "VAE"):
        weights = {n: v for n, v in weights.items() if not n.startswith(("loss.", "model_ema."))}
        shapes = {name: tuple(value.shape) for name, value in weights.items()}
        config = vae_config(shapes, beside.number("scale_factor", layout.scale))
        translator = Translator(vae_pairs(len(config["block_out_channels"]), config["layers_per_block"]))
        named = {}
        for name, value in weights.items():
            ours = translator.to_diffusers(name)
            # LDM writes the attention's projections as 1x1 convolutions
            named[ours] = value[:, :, 0, 0] if ".attentions." in ours and value.ndim == 4 else value
        model, missing = fill(lambda: AutoencoderKL(**config), named)
    _complain(missing, path, "VAE")
    said += left_out(named, model.state_dict(), "VAE")
    return model


def _build_text(
    weights: dict[str, torch.Tensor], layout: TextLayout, folder: Path | None, path: Path, said: list[str]
) -> Any:
    from transformers import CLIPTextConfig

    with _shape_errors(path, "text encoder"):
        if layout.open_clip:
            weights = to_transformers(_used(weights, layout.unused_layers))
        if not layout.open_clip and folder is not None and (folder / "config.json").is_file():
            config = CLIPTextConfig.from_pretrained(folder)
        else:
            config = text_config({name: tuple(v.shape) for name, v in weights.items()}, layout.open_clip)
        model, missing = build_text_encoder(config, weights, layout.projected)
    _complain(missing, path, "text encoder")
    if layout.open_clip:
        return model  # SD 2.x always has an unused projection
    used = {file_name_of(name) for name in model.state_dict()}
    said += left_out([name for name in weights if file_name_of(name) not in used], (), "text encoder")
    return model


def _used(weights: dict[str, torch.Tensor], unused: int) -> dict[str, torch.Tensor]:
    """OpenCLIP's weights without the layers behind the one whose output is used (files of 23 layers lack them
    already)."""
    layers = numbers(weights, r"transformer\.resblocks\.(\d+)\.")
    dropped = layers[len(layers) - unused :] if len(layers) != SD2_LAYERS else []
    prefixes = tuple(f"transformer.resblocks.{layer}." for layer in dropped)
    return {name: value for name, value in weights.items() if not (prefixes and name.startswith(prefixes))}


SD2_LAYERS = 23
"""Layers of SD 2.x' text encoder that are run."""


def _schedule(beside: Beside, said: Prediction) -> dict[str, Any]:
    """diffusers' scheduler configuration from the yaml's, Stable Diffusion's where it says nothing."""
    return {
        "beta_schedule": "scaled_linear",
        "beta_start": beside.number("linear_start", 0.00085),
        "beta_end": beside.number("linear_end", 0.012),
        "num_train_timesteps": int(beside.number("timesteps", 1000)),
        "prediction_type": said.kind,
        "rescale_betas_zero_snr": said.zero_terminal_snr,
    }


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
        if isinstance(error, (KeyError, IndexError, RuntimeError, TypeError, ValueError)):
            raise LoraTrainError(
                f"the {self.what} in the checkpoint has an unknown shape.", str(self.path), GIVE_ANOTHER
            ) from error

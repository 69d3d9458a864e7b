"""What a file of tensors is, by its keys, if it is not a readable LoRA."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from lora_train.lorafile.families import other_family
from lora_train.lorafile.layouts import named
from lora_train.records.families import titles

_LORA = re.compile(r"lora[._]?(?:A|B|up|down)\b|lora_(?:up|down)|hada_w|lokr_w|\.diff$|oft_blocks")
_FOLDER = "It belongs in the WebUI's folder {}."


@dataclass(frozen=True)
class Kind:
    """A kind of file: the pattern of its keys, its name in a sentence, and what to do with it."""

    keys: re.Pattern[str]
    what: str
    fix: str


def _kind(pattern: str, what: str, fix: str) -> Kind:
    return Kind(re.compile(pattern), what, fix)


KINDS = (
    _kind(
        r"(?:unet|text_encoder):\d+:(?:up|down)$",
        "a LoRA in the format of cloneofsimo's `lora`, which counts its layers and does not name them",
        "Convert it with the tools of that project (lora_add), or look for the file in kohya's format.",
    ),
    _kind(r"^control_model\.|controlnet_|zero_convs|input_hint_block|^lllite_|^lora_controlnet$", "a ControlNet",
          "It belongs in the folder of the ControlNet extension."),
    _kind(r"^adapter\.body\.|^body\.\d+\.(?:resnets|in_conv|block)", "a T2I-Adapter",
          "It belongs in the folder of the ControlNet extension."),
    _kind(r"^image_proj|^ip_adapter\.|to_k_ip", "an IP-Adapter",
          "It belongs in the folder of the ControlNet extension."),
    _kind(r"motion_modules\.", "a motion module (AnimateDiff)", "It belongs in the folder of that extension."),
    _kind(r"^model\.diffusion_model\.|^(?:cond_stage_model|conditioner)\.", "a checkpoint (a whole base model)",
          _FOLDER.format("models/Stable-diffusion")),
    _kind(r"^(?:first_stage_model\.)?(?:encoder|decoder)\.(?:down|up|mid|conv_in|down_blocks|up_blocks|mid_block)\b",
          "a VAE", _FOLDER.format("models/VAE")),
    _kind(r"^(?:emb_params|string_to_param|clip_[lg])(?:$|\.\*)", "an embedding (textual inversion)",
          _FOLDER.format("embeddings")),
    _kind(r"^(?:linear|\d+)\.(?:linear\.)?\d*\.?weight$", "a hypernetwork, or a small network of another program",
          _FOLDER.format("models/hypernetworks")),
    _kind(r"^(?:down_blocks|up_blocks|mid_block|conv_in|input_blocks)\b", "the UNet of a base model alone",
          "Give the LoRA's own file."),
    _kind(r"^(?:vision_model|visual)\.", "the vision part of CLIP", "Give the LoRA's own file."),
    _kind(r"^(?:text_model|transformer\.resblocks|encoder\.(?:block|layers))\.", "a text encoder",
          "Give the LoRA's own file."),
    _kind(r"^(?:model\.\d+\.|conv_first|body\.\d+\.rdb|RRDB)", "an upscaler", _FOLDER.format("models/ESRGAN")),
    _kind(r"^(?:optimizer|exp_avg|param_groups|state\.\d+)", "a training's saved state, not its result",
          "Give the LoRA that was written by the training."),
)  # fmt: skip
"""Kinds of files in the field; the first that matches applies."""


class NotLora(ValueError):
    """No key of a file belongs to a LoRA; the text says what the file is, `fix` what to do."""

    def __init__(self, kind: Kind) -> None:
        super().__init__(kind.what)
        self.fix = kind.fix


def contents_of(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> Kind:
    """The kind of a file with these keys, none of which belongs to a LoRA for Stable Diffusion."""
    if not tensors:
        return _kind("", "a file without any tensors", "Download it again.")
    if any(map(_LORA.search, tensors)) and not any(map(KINDS[0].keys.search, tensors)):
        family = other_family(tensors)
        for_whom = f"a LoRA for {family}" if family else "a LoRA for another kind of model"
        return _kind("", f"{for_whom} ({named(tensors)})", f"This program supports {titles()}.")
    for kind in KINDS:
        if any(map(kind.keys.search, tensors)):
            return kind
    unknown = f"something else: none of its {len(tensors)} keys belongs to a LoRA ({named(tensors)})"
    return _kind(
        "", unknown, "Give a LoRA file (.safetensors, .pt, .ckpt), or a folder as peft and diffusers write them."
    )

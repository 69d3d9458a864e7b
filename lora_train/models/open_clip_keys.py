"""Names and tensors of OpenCLIP's text encoders (ViT-H of SD 2.x, ViT-bigG of SDXL) and of transformers'.

OpenCLIP keeps query, key and value of a layer in one matrix (`nn.MultiheadAttention`) and multiplies by its
projection from the right; transformers has three Linear layers, and a Linear for the projection.
Source: mlfoundations/open_clip, `transformer.py`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch

_WHOLE = {
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
}
_IN_LAYER = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
_PARTS = ("q_proj", "k_proj", "v_proj")
_PROJECTION, _THEIR_PROJECTION = "text_projection.weight", "text_projection"
_THEIR_LAYER = re.compile(r"transformer\.resblocks\.(\d+)\.(.+)")
_OUR_LAYER = re.compile(r"text_model\.encoder\.layers\.(\d+)\.(.+)")

ATTENTION = re.compile(r"(.*)\.attn\.in_proj_(weight|bias)")


def to_transformers(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """OpenCLIP's tensors (names without the checkpoint's prefix) with transformers' names and shapes.

    The parts of a fused matrix are views of it. `logit_scale` and other names are left out.
    """
    out = {}
    for name, value in tensors.items():
        layer = _THEIR_LAYER.fullmatch(name)
        if name in _WHOLE:
            out[_WHOLE[name]] = value
        elif name == _THEIR_PROJECTION:
            out[_PROJECTION] = value.t()
        elif name == _PROJECTION:  # some tools write it as a Linear
            out[_PROJECTION] = value
        elif layer and layer[2].startswith("attn.in_proj_"):
            kind = layer[2].removeprefix("attn.in_proj_")
            for part, piece in zip(_PARTS, value.chunk(3)):
                out[f"text_model.encoder.layers.{layer[1]}.self_attn.{part}.{kind}"] = piece
        elif layer:
            module, _, kind = layer[2].rpartition(".")
            if module in _IN_LAYER:
                out[f"text_model.encoder.layers.{layer[1]}.{_IN_LAYER[module]}.{kind}"] = value
    return out


def to_open_clip(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The inverse of `to_transformers`."""
    whole = {ours: theirs for theirs, ours in _WHOLE.items()}
    in_layer = {ours: theirs for theirs, ours in _IN_LAYER.items()}
    out = {}
    for name, value in tensors.items():
        layer = _OUR_LAYER.fullmatch(name)
        if name in whole:
            out[whole[name]] = value
        elif name == _PROJECTION:
            out[_THEIR_PROJECTION] = value.t()
        elif layer:
            module, _, kind = layer[2].rpartition(".")
            theirs = f"transformer.resblocks.{layer[1]}"
            if module in in_layer:
                out[f"{theirs}.{in_layer[module]}.{kind}"] = value
            elif module == "self_attn.q_proj":
                parts = [tensors[name.replace("q_proj", part)] for part in _PARTS]
                out[f"{theirs}.attn.in_proj_{kind}"] = torch.cat(parts)
    return out


def module_path(theirs: str) -> str | None:
    """transformers' path of one of OpenCLIP's modules inside a layer; None for all others."""
    layer = _THEIR_LAYER.fullmatch(theirs)
    if layer is None or layer[2] not in _IN_LAYER:
        return None
    return f"text_model.encoder.layers.{layer[1]}.{_IN_LAYER[layer[2]]}"

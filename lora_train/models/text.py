"""CLIP text models as transformers 4.30 to 5.x have them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

_INNER = "text_model."


def text_core(encoder: nn.Module) -> nn.Module:
    """The module that holds `encoder.layers`; transformers 5 dropped the `text_model` in between."""
    return getattr(encoder, "text_model", encoder)


def file_name_of(path: str) -> str:
    """A module's path as files spell it: with `text_model.` in front, whatever this transformers has."""
    return path if path.startswith(_INNER) or path.startswith("text_projection") else _INNER + path


def load_text_weights(encoder: nn.Module, weights: Mapping[str, torch.Tensor]) -> tuple[list[str], list[str]]:
    """Load weights named with or without `text_model.`; returns missing and unexpected names."""
    inner = hasattr(encoder, "text_model")
    named = {}
    for name, value in weights.items():
        if name.endswith("position_ids"):
            continue  # a constant that older files carry
        bare = name.removeprefix(_INNER)
        named[_INNER + bare if inner and not bare.startswith("text_projection") else bare] = value
    missing, unexpected = encoder.load_state_dict(named, strict=False)
    return [name for name in missing if not name.endswith("position_ids")], list(unexpected)


def encode_clip(encoder: Any, tokens: torch.Tensor, clip_skip: int) -> torch.Tensor:
    """Hidden states (B, T, D) of the layer `clip_skip` from the end, through the final norm.

    Source: NovelAI's "clip skip", as the WebUI computes it.
    """
    if clip_skip == 1:
        return encoder(tokens)[0]  # type: ignore[no-any-return]
    states = encoder(tokens, output_hidden_states=True).hidden_states[-clip_skip]
    return text_core(encoder).final_layer_norm(states)  # type: ignore[no-any-return, operator]

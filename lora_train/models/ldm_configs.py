"""diffusers' and transformers' configurations of the models in a single-file checkpoint, derived from its shapes.

What shapes do not show is the same in all models of a family (`LAYOUTS`), unless the yaml beside it says otherwise.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from lora_train.models.ldm_keys import CLIP_PREFIX, SD2_TEXT_PREFIX, SDXL_TEXT_PREFIXES, UnetShape
from lora_train.records.families import FAMILIES

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class TextLayout:
    """A text encoder in a checkpoint: its prefix, and whose names it uses."""

    prefix: str
    open_clip: bool = False
    unused_layers: int = 0
    """How many layers at the end are never run, so that diffusers' folders and kohya's files do not have them."""
    projected: bool = False
    """Whether the UNet also receives its pooled, projected state."""


@dataclass(frozen=True)
class Layout:
    """What a family's checkpoints have in common."""

    text: tuple[TextLayout, ...]
    scale: float
    """Latents times this have unit standard deviation."""
    sample_size: tuple[int, int]
    """Side of the latents that it was trained on, for epsilon and for v."""
    heads: int = 0
    """Heads in every attention of the UNet, or 0: as many as `head_channels` give."""
    head_channels: int = 64


LAYOUTS = {
    "sd1": Layout((TextLayout(CLIP_PREFIX),), FAMILIES["sd1"].latents.scale, (64, 64), heads=8),
    "sd2": Layout(
        (TextLayout(SD2_TEXT_PREFIX, open_clip=True, unused_layers=1),), FAMILIES["sd2"].latents.scale, (64, 96)
    ),
    "sdxl": Layout(
        (TextLayout(SDXL_TEXT_PREFIXES[0]), TextLayout(SDXL_TEXT_PREFIXES[1], open_clip=True, projected=True)),
        FAMILIES["sdxl"].latents.scale,
        (128, 128),
    ),
}


def unet_config(shapes: Shapes, layout: Layout, params: Mapping[str, Any]) -> tuple[dict[str, Any], UnetShape]:
    """The configuration of an LDM UNet (names without prefix); `params` are the yaml's for it.

    Raises KeyError, IndexError or ValueError for anything but a UNet of these families.
    """
    last = numbers(shapes, r"input_blocks\.(\d+)\.")[-1]
    downs = [i for i in range(last + 1) if f"input_blocks.{i}.0.op.weight" in shapes]
    layers = downs[0] - 1 if downs else last
    levels = len(downs) + 1
    firsts = [1 + level * (layers + 1) for level in range(levels)]
    attention = tuple(f"input_blocks.{i}.1.norm.weight" in shapes for i in firsts)
    widths = tuple(shapes[f"input_blocks.{i}.0.out_layers.3.weight"][0] for i in firsts)
    names = ["CrossAttn" if has else "" for has in attention]
    config = {
        "in_channels": shapes["input_blocks.0.0.weight"][1],
        "out_channels": shapes["out.2.weight"][0],
        "block_out_channels": widths,
        "layers_per_block": layers,
        "down_block_types": tuple(f"{name}DownBlock2D" for name in names),
        "up_block_types": tuple(f"{name}UpBlock2D" for name in reversed(names)),
        "cross_attention_dim": shapes["middle_block.1.transformer_blocks.0.attn2.to_k.weight"][1],
        "transformer_layers_per_block": _depths(shapes, firsts, attention, layers),
        "attention_head_dim": _heads(widths, layout, params),  # diffusers' historical name for the number of heads
        "use_linear_projection": len(shapes["middle_block.1.proj_in.weight"]) == 2,
    }
    return config, UnetShape(layers, attention)


def _heads(widths: tuple[int, ...], layout: Layout, params: Mapping[str, Any]) -> int | tuple[int, ...]:
    channels = int(params.get("num_head_channels", -1))
    heads = int(params.get("num_heads", -1))
    if channels < 1 and (heads > 0 or layout.heads):
        return heads if heads > 0 else layout.heads
    return tuple(width // (channels if channels > 0 else layout.head_channels) for width in widths)


def _depths(shapes: Shapes, firsts: list[int], attention: tuple[bool, ...], layers: int) -> int | tuple[int, ...]:
    """Transformer blocks in each attention of a level; a level without any counts as the middle one."""

    def depth(place: str) -> int:
        return len(numbers(shapes, re.escape(place) + r"\.transformer_blocks\.(\d+)\."))

    middle = depth("middle_block.1")
    depths: list[int] = []
    for first, has in zip(firsts, attention):
        found = {depth(f"input_blocks.{first + layer}.1") for layer in range(layers)} if has else {1}
        if len(found) != 1:
            raise ValueError("transformers of different depth on one level")
        depths += found
    if not attention[-1]:
        depths[-1] = middle
    if depths[-1] != middle:
        raise ValueError("the middle block is not as deep as the last level")
    return 1 if set(depths) == {1} else tuple(depths)


def picture_size_inputs(shapes: Shapes, pooled: int) -> dict[str, Any]:
    """The part of SDXL's configuration for pooled text (of `pooled` channels) and six sizes."""
    width = shapes["label_emb.0.0.weight"][1]
    if (width - pooled) % 6:
        raise ValueError("the UNet does not take six sizes")
    return {
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": (width - pooled) // 6,
        "projection_class_embeddings_input_dim": width,
    }


def vae_config(shapes: Shapes, scale: float) -> dict[str, Any]:
    """The configuration of an LDM VAE (names without prefix)."""
    levels = len(numbers(shapes, r"encoder\.down\.(\d+)\."))
    layers = len(numbers(shapes, r"encoder\.down\.0\.block\.(\d+)\."))
    return {
        "block_out_channels": tuple(shapes[f"encoder.down.{i}.block.0.conv2.weight"][0] for i in range(levels)),
        "down_block_types": ("DownEncoderBlock2D",) * levels,
        "up_block_types": ("UpDecoderBlock2D",) * levels,
        "layers_per_block": layers,
        "latent_channels": shapes["post_quant_conv.weight"][1],
        "scaling_factor": scale,
    }


def text_config(shapes: Shapes, open_clip: bool) -> Any:
    """The configuration of a text encoder (transformers' names, with or without `text_model.`)."""
    from transformers import CLIPTextConfig

    shapes = {name.removeprefix("text_model."): shape for name, shape in shapes.items()}
    vocabulary, width = shapes["embeddings.token_embedding.weight"]
    return CLIPTextConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=shapes["encoder.layers.0.mlp.fc1.weight"][0],
        projection_dim=shapes.get("text_projection.weight", (width,))[0],
        num_hidden_layers=len(numbers(shapes, r"encoder\.layers\.(\d+)\.")),
        num_attention_heads=max(1, width // 64),
        max_position_embeddings=shapes["embeddings.position_embedding.weight"][0],
        hidden_act="gelu" if open_clip else "quick_gelu",
        bos_token_id=vocabulary - 2,
        eos_token_id=vocabulary - 1,
        pad_token_id=0 if open_clip else 1,
    )


def numbers(names: Iterable[str], pattern: str) -> list[int]:
    """The different numbers that `pattern` finds at the beginning of `names`, in order."""
    return sorted({int(match[1]) for name in names if (match := re.match(pattern, name))})

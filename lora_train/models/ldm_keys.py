"""Names of the original checkpoints (LDM) and of diffusers, translated both ways.

The blocks are counted from the model's shape, not listed, so that a model of any depth fits.
Sources: CompVis `openaimodel.py` and `model.py` (Stability's `sgm` kept the names for SDXL), diffusers'
`unet_2d_condition.py` and `vae.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

UNET_PREFIX = "model.diffusion_model."
VAE_PREFIX = "first_stage_model."
CLIP_PREFIX = "cond_stage_model.transformer."
SD2_TEXT_PREFIX = "cond_stage_model.model."
SDXL_TEXT_PREFIXES = ("conditioner.embedders.0.transformer.", "conditioner.embedders.1.model.")

Pairs = list[tuple[str, str]]
"""(LDM prefix, diffusers prefix)."""

_RESNET: Pairs = [
    ("in_layers.0", "norm1"),
    ("in_layers.2", "conv1"),
    ("emb_layers.1", "time_emb_proj"),
    ("out_layers.0", "norm2"),
    ("out_layers.3", "conv2"),
    ("skip_connection", "conv_shortcut"),
]

_VAE_ATTENTION: Pairs = [
    ("norm", "group_norm"),
    ("q", "to_q"),
    ("k", "to_k"),
    ("v", "to_v"),
    ("proj_out", "to_out.0"),
]


@dataclass(frozen=True)
class UnetShape:
    """What determines a UNet's block names; `attention` says per level whether it has transformers."""

    layers: int
    attention: tuple[bool, ...]

    @classmethod
    def of_config(cls, config: Any) -> UnetShape:
        """From the configuration of a diffusers UNet."""
        return cls(int(config.layers_per_block), tuple("CrossAttn" in name for name in config.down_block_types))


def unet_pairs(shape: UnetShape) -> Pairs:
    """Translations for the UNet, without UNET_PREFIX."""
    pairs: Pairs = [
        ("input_blocks.0.0", "conv_in"),
        ("time_embed.0", "time_embedding.linear_1"),
        ("time_embed.2", "time_embedding.linear_2"),
        ("label_emb.0.0", "add_embedding.linear_1"),
        ("label_emb.0.2", "add_embedding.linear_2"),
        ("out.0", "conv_norm_out"),
        ("out.2", "conv_out"),
        *_resnet("middle_block.0", "mid_block.resnets.0"),
        ("middle_block.1", "mid_block.attentions.0"),
        *_resnet("middle_block.2", "mid_block.resnets.1"),
    ]
    levels = len(shape.attention)
    for level in range(levels):
        first = 1 + level * (shape.layers + 1)
        for layer in range(shape.layers):
            ours = f"down_blocks.{level}"
            pairs += _resnet(f"input_blocks.{first + layer}.0", f"{ours}.resnets.{layer}")
            if shape.attention[level]:
                pairs.append((f"input_blocks.{first + layer}.1", f"{ours}.attentions.{layer}"))
        if level < levels - 1:
            pairs.append((f"input_blocks.{first + shape.layers}.0.op", f"{ours}.downsamplers.0.conv"))
    for level in range(levels):
        has_attention = shape.attention[levels - 1 - level]
        for layer in range(shape.layers + 1):
            theirs = f"output_blocks.{level * (shape.layers + 1) + layer}"
            pairs += _resnet(f"{theirs}.0", f"up_blocks.{level}.resnets.{layer}")
            if has_attention:
                pairs.append((f"{theirs}.1", f"up_blocks.{level}.attentions.{layer}"))
        if level < levels - 1:
            pairs.append((f"{theirs}.{1 + has_attention}.conv", f"up_blocks.{level}.upsamplers.0.conv"))
    return pairs


def vae_pairs(levels: int, layers: int) -> Pairs:
    """Translations for the VAE, without VAE_PREFIX."""
    pairs: Pairs = []
    for side, theirs, ours, blocks in (
        ("encoder", "down", "down_blocks", layers),
        ("decoder", "up", "up_blocks", layers + 1),
    ):
        for level in range(levels):
            their_level = level if side == "encoder" else levels - 1 - level
            for block in range(blocks):
                pairs.append(
                    (
                        f"{side}.{theirs}.{their_level}.block.{block}.nin_shortcut",
                        f"{side}.{ours}.{level}.resnets.{block}.conv_shortcut",
                    )
                )
                pairs.append((f"{side}.{theirs}.{their_level}.block.{block}", f"{side}.{ours}.{level}.resnets.{block}"))
            sampler = "downsample" if side == "encoder" else "upsample"
            pairs.append((f"{side}.{theirs}.{their_level}.{sampler}.conv", f"{side}.{ours}.{level}.{sampler}rs.0.conv"))
        for block in (1, 2):
            pairs.append((f"{side}.mid.block_{block}", f"{side}.mid_block.resnets.{block - 1}"))
        for their_name, our_name in _VAE_ATTENTION:
            pairs.append((f"{side}.mid.attn_1.{their_name}", f"{side}.mid_block.attentions.0.{our_name}"))
        pairs.append((f"{side}.norm_out", f"{side}.conv_norm_out"))
    return pairs


def _resnet(theirs: str, ours: str) -> Pairs:
    return [(f"{theirs}.{a}", f"{ours}.{b}") for a, b in _RESNET]


class Translator:
    """Translates whole parameter names by the longest prefix that fits; others stay as they are."""

    def __init__(self, pairs: Pairs) -> None:
        self._to_ours = dict(pairs)
        self._to_theirs = {ours: theirs for theirs, ours in pairs}

    def to_diffusers(self, name: str) -> str:
        """LDM to diffusers."""
        return _translate(name, self._to_ours)

    def to_ldm(self, name: str) -> str:
        """diffusers to LDM."""
        return _translate(name, self._to_theirs)


def _translate(name: str, table: dict[str, str]) -> str:
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        prefix = ".".join(parts[:length])
        if prefix in table:
            return ".".join([table[prefix], *parts[length:]])
    return name

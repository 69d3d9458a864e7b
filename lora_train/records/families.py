"""All families of base models. Adding one is a file with its implementation, and one call of `FAMILIES.register`."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator

from lora_train.records.family import (
    CHUNKS,
    CLIP_SKIP,
    DIFFUSION,
    TWO_ENCODERS,
    WEIGHTED,
    Blocks,
    Family,
    Latents,
    Predicts,
    Side,
)
from lora_train.records.table import Names, Records

EPSILON, V = "epsilon", "v_prediction"

_SD_BLOCK = re.compile(r"lora_unet_(down|up)_blocks_(\d+)_(resnets|attentions|downsamplers|upsamplers)_(\d+)_")
_XL_BLOCK = re.compile(r"lora_unet_(input_blocks|middle_block|output_blocks)_(\d+)_")
_XL_FIRST = {"input_blocks": 1, "middle_block": 10, "output_blocks": 13}
_SD_SIDE = 12


def _sd_block(name: str) -> int | None:
    """25 blocks, down 0 to 11, mid 12, up 13 to 24, by diffusers' names, as kohya's options count them."""
    match = _SD_BLOCK.match(name)
    if match:
        inner = 2 if match[3].endswith("samplers") else int(match[4])
        return (1 if match[1] == "down" else _SD_SIDE + 1) + 3 * int(match[2]) + inner
    return _SD_SIDE if name.startswith("lora_unet_mid_block_") else None


def _xl_block(name: str) -> int | None:
    """23 blocks, embeddings 0, input 1 to 9, middle 10 to 12, output 13 to 21, out 22, by the original names that
    SDXL's LoRA files have."""
    match = _XL_BLOCK.match(name)
    return _XL_FIRST[match[1]] + int(match[2]) if match else None


_WORDS = """
    down_blocks mid_block up_blocks attentions resnets downsamplers upsamplers transformer_blocks
    attn1 attn2 to_q to_k to_v to_out ff net proj proj_in proj_out norm norm1 norm2 norm3
    conv conv1 conv2 conv_in conv_out conv_norm_out conv_shortcut
    time_emb_proj time_embedding add_embedding linear_1 linear_2

    input_blocks middle_block output_blocks in_layers emb_layers out_layers skip_connection op out
    time_embed label_emb

    text_model encoder layers self_attn q_proj k_proj v_proj out_proj mlp fc1 fc2
    layer_norm1 layer_norm2 final_layer_norm embeddings token_embedding position_embedding text_projection
"""
"""The words of diffusers' UNet, of the original UNet, and of CLIP."""

_UNET = Side(
    "lora_unet",
    "unet",
    "UNet",
    dialects=("model.diffusion_model.", "diffusion_model."),
    words=frozenset(_WORDS.split()),
)


def _clip(prefix: str, component: str, title: str, other: str) -> Side:
    """A CLIP text encoder; `other` is its name in ComfyUI and the WebUI."""
    dialects = tuple(f"{before}{other}.{after}" for before in ("text_encoders.", "") for after in ("transformer.", ""))
    words = frozenset(_WORDS.split())
    return Side(prefix, component, title, dialects, begins=("text_model.", "text_projection"), words=words)


_SD = {
    "opening": "lora_train.models.stable_diffusion:OPENING",
    "latents": Latents(channels=4, factor=8, scale=0.18215),
    "denoiser": _UNET,
    "texts": (_clip("lora_te", "text_encoder", "text encoder", "clip_l"),),
    "blocks": Blocks(_sd_block, mid=1, side=_SD_SIDE),
    "features": frozenset((DIFFUSION, CLIP_SKIP, CHUNKS, WEIGHTED)),
    "npz": "_sd.npz",
}

FAMILIES: Records[Family] = Records(
    "family of base models",
    (
        Family(
            name="sd1",
            title="SD 1.x",
            predictions=(
                Predicts(EPSILON, "sd_v1", "stable-diffusion-v1/lora", "epsilon"),
                Predicts(V, "sd_v1_v", "stable-diffusion-v1/lora", "v"),
            ),
            said=r"sd_?v?1|stable_diffusion_v?1",
            card="SD1",
            **_SD,  # type: ignore[arg-type]
        ),
        Family(
            name="sd2",
            title="SD 2.x",
            predictions=(
                Predicts(EPSILON, "sd_v2", "stable-diffusion-v2-512/lora", "epsilon"),
                Predicts(V, "sd_v2_v", "stable-diffusion-v2-768-v/lora", "v"),
            ),
            said=r"sd_?v?2|stable_diffusion_v?2",
            card="SD2",
            metadata={"ss_v2": True},
            **_SD,  # type: ignore[arg-type]
        ),
        Family(
            name="sdxl",
            title="SDXL",
            opening="lora_train.models.stable_diffusion:OPENING",
            latents=Latents(channels=4, factor=8, scale=0.13025),
            denoiser=_UNET,
            texts=(
                _clip("lora_te1", "text_encoder", "first text encoder", "clip_l"),
                _clip("lora_te2", "text_encoder_2", "second text encoder", "clip_g"),
            ),
            predictions=(
                Predicts(EPSILON, "sdxl_base_v1-0", "stable-diffusion-xl-v1-base/lora", "epsilon"),
                Predicts(V, "sdxl_base_v1-0", "stable-diffusion-xl-v1-base/lora", "v"),
            ),
            blocks=Blocks(_xl_block, mid=3, side=9, ends=1),
            features=frozenset((DIFFUSION, CLIP_SKIP, CHUNKS, WEIGHTED, TWO_ENCODERS)),
            implementation="https://github.com/Stability-AI/generative-models",
            said=r"sd_?xl|stable_diffusion_xl|pony|illustrious|noobai",
            card="SDXL",
            npz="_sdxl.npz",
        ),
    ),
)
"""The families by name."""


def families_with(feature: str) -> Names:
    """The families with this feature, see `family.FEATURES`."""
    return FAMILIES.names(lambda family: feature in family.features)


def all_blocks() -> list[Blocks]:
    """The block layouts of all families that have blocks, the newest family's first."""
    return [family.blocks for family in newest_first() if family.blocks is not None]


def block_totals() -> dict[int, list[Family]]:
    """The families by their number of blocks."""
    found: dict[int, list[Family]] = {}
    for family in FAMILIES.values():
        if family.blocks is not None:
            found.setdefault(family.blocks.total, []).append(family)
    return found


def least_factor() -> int:
    """The number of which every side in pixels must be a multiple, whichever the family."""
    return math.gcd(*(family.latents.factor for family in FAMILIES.values()))


def newest_first() -> list[Family]:
    """The families in the order of recognition: Stable Diffusion's families come last and take the rest."""
    return [*FAMILIES.values()][::-1]


def sides() -> Iterator[Side]:
    """The sides of all families."""
    return (side for family in FAMILIES.values() for side in family.sides)


def side_of(name: str) -> Side | None:
    """The side that a module belongs to, by its name in files; None if it has no known prefix."""
    found = [side for side in sides() if name.startswith(side.prefix + "_")]
    return max(found, key=lambda side: len(side.prefix), default=None)


def shared_prefix(component: str) -> str:
    """The prefix for dotted keys of this part of a model before their family is known: that of the oldest family with
    such a part."""
    return next(side.prefix for side in sides() if side.component == component)


def is_text(name: str) -> bool:
    """Whether a module (or a prefix with its underscore) belongs to a text encoder, by its name in files."""
    side = side_of(name)
    return side is not None and any(side in family.texts for family in FAMILIES.values())


def of_version(version: str) -> Family | None:
    """The family whose `ss_base_model_version` is this, or is the start of it."""
    known = ((one.version, family) for family in newest_first() for one in family.predictions)
    found = [(start, family) for start, family in known if version.startswith(start)]
    return max(found, key=lambda one: len(one[0]))[1] if found else None


def titles(families: Iterable[Family] | None = None) -> str:
    """ "SD 1.x, SD 2.x and SDXL"."""
    names = [family.title for family in (FAMILIES.values() if families is None else families)]
    return f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else "".join(names)

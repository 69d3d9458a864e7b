"""Names of modules in LoRA files: a prefix and the module's path, dots as underscores (kohya's sd-scripts).

An underscore is both a dot and a part of words, so reading a name back needs the words. SDXL's UNet has two names:
its original code's (`sgm`: `input_blocks`, which kohya writes) and diffusers' (`down_blocks`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from lora_train.models.ldm_keys import Translator, UnetShape, unet_pairs
from lora_train.models.text import file_name_of

PREFIXES = ("lora_unet_", "lora_te_", "lora_te1_", "lora_te2_")
"""What names begin with."""

COMPONENTS = {
    "lora_unet_": "unet",
    "lora_te_": "text_encoder",
    "lora_te1_": "text_encoder",
    "lora_te2_": "text_encoder_2",
}
"""diffusers' name of what a prefix stands for."""

SD1 = UnetShape(2, (True, True, True, False))
SDXL = UnetShape(2, (False, True, True))
_TRANSLATORS = {shape: Translator(unet_pairs(shape)) for shape in (SD1, SDXL)}

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
"""Of diffusers' UNet, of the original code's, of CLIP."""
_WORD = re.compile(rf"({'|'.join(sorted(_WORDS.split(), key=len, reverse=True))}|\d+)(?:_|$)")
_DEEP = re.compile(r"transformer_blocks[._](?:[2-9]|\d\d)")
_BLOCK = re.compile(r"(input|output)_blocks\.(\d+)\.|(middle)_block\.")
_SGM = re.compile(r"(?:^|[._])(?:input_blocks|middle_block|output_blocks)[._]")


def split_name(name: str) -> tuple[str, str]:
    """The prefix and the rest of a module's name; the prefix is empty where there is none of ours."""
    prefix = next((prefix for prefix in PREFIXES if name.startswith(prefix)), "")
    return prefix, name[len(prefix) :]


def flat_name(prefix: str, path: str) -> str:
    """The name of the module at `path` ("down_blocks.0. ...")."""
    spelled = path if prefix == "lora_unet_" else file_name_of(path)
    return prefix + spelled.replace(".", "_")


def path_of(name: str) -> str | None:
    """The module's path, dots where they belong; None when a word is unknown."""
    rest, words = split_name(name)[1], []
    position = 0
    while position < len(rest):
        found = _WORD.match(rest, position)
        if found is None:
            return None
        words.append(found[1])
        position = found.end()
    return ".".join(words) or None


def has_deep_transformers(names: Iterable[str]) -> bool:
    """Whether there are transformers of more than two layers, which only SDXL's real shape has, not small models of
    its design."""
    return any(_DEEP.search(name) for name in names)


def looks_like_sdxl(names: Iterable[str]) -> bool:
    """Whether modules' names as they were read are SDXL's: two text encoders, `sgm`'s blocks or deep transformers."""
    return any(name.startswith(("lora_te1_", "lora_te2_")) or _SGM.search(name) or _DEEP.search(name) for name in names)


def to_diffusers(path: str, sdxl: bool) -> str:
    """diffusers' path of a UNet's module, from either naming."""
    return _TRANSLATORS[SDXL if sdxl else SD1].to_diffusers(path)


def canonical_path(path: str, sdxl: bool) -> str:
    """A UNet module's path as kohya's files have it: `sgm`'s for SDXL, else diffusers'."""
    return _TRANSLATORS[SDXL].to_ldm(path) if sdxl else _TRANSLATORS[SD1].to_diffusers(path)


def block_of(name: str, sdxl: bool) -> str:
    """ "IN00" ..., "M00", "OUT00" ... as in the original code, "BASE" outside of them; "TE", "TE1", "TE2" for text."""
    prefix, rest = split_name(name)
    if prefix != "lora_unet_":
        return prefix.removeprefix("lora_").rstrip("_").upper()
    path = path_of(name) or rest
    found = _BLOCK.match(_TRANSLATORS[SDXL if sdxl else SD1].to_ldm(path) + ".")
    if found is None:
        return "BASE"
    return "M00" if found[3] else f"{'IN' if found[1] == 'input' else 'OUT'}{int(found[2]):02d}"

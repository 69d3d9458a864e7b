"""The layouts of LoRA files, as tables, and reading each into kohya's names.

Sources: kohya-ss sd-scripts, LyCORIS, diffusers' `loaders/lora_*`, peft's `utils/save_and_load.py`, OneTrainer,
ai-toolkit, ComfyUI's `LoraSave`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch

from lora_train.lorafile.names import canonical_path, flat_name, looks_like_sdxl, path_of, split_name

ROOTS = (
    ("base_model.model.unet.", "lora_unet_"),
    ("base_model.model.text_encoder.", "lora_te_"),
    ("base_model.model.text_encoder_2.", "lora_te2_"),
    ("unet.base_model.model.", "lora_unet_"),
    ("text_encoder.base_model.model.", "lora_te_"),
    ("text_encoder_2.base_model.model.", "lora_te2_"),
    ("unet.", "lora_unet_"),
    ("text_encoder.", "lora_te_"),
    ("text_encoder_2.", "lora_te2_"),
    ("clip_l.transformer.", "lora_te_"),
    ("clip_g.transformer.", "lora_te2_"),
    ("clip_l.", "lora_te_"),
    ("clip_g.", "lora_te2_"),
    ("model.diffusion_model.", "lora_unet_"),
    ("diffusion_model.", "lora_unet_"),
)
"""Beginnings of dotted keys, and what they stand for."""

BARE_ROOTS = (
    (re.compile(r"(?:down_blocks|mid_block|up_blocks|input_blocks|middle_block|output_blocks)\."), "lora_unet_"),
    (re.compile(r"(?:conv_in|conv_out|time_embedding|add_embedding)\."), "lora_unet_"),
    (re.compile(r"(?:text_model\.|encoder\.layers\.)"), "lora_te_"),
)
"""Paths without such a beginning, as peft and the oldest diffusers write them for one model."""

PEFT_WRAPPER = "base_model.model."
"""What peft puts before a path."""

OLD_SPELLINGS = (
    (re.compile(r"\.(?:processor\.)?to_([qkv])_lora\.(?=(?:down|up)\.)"), r".to_\1.lora."),
    (re.compile(r"\.(?:processor\.)?to_out_lora\.(?=(?:down|up)\.)"), ".to_out.0.lora."),
    (re.compile(r"\.self_attn\.to_([qkv])\.lora\."), r".self_attn.\1_proj.lora."),
    (re.compile(r"\.self_attn\.to_out\.0\.lora\."), ".self_attn.out_proj.lora."),
)
"""diffusers' attention processors, up to 0.20: the layer's name with the network's in one."""

DOWN, UP, MID, ALPHA, DORA = "lora_down.weight", "lora_up.weight", "lora_mid.weight", "alpha", "dora_scale"

ENDINGS = {
    **{f"lora_A{adapter}.weight": DOWN for adapter in ("", ".default", ".default_0")},
    **{f"lora_B{adapter}.weight": UP for adapter in ("", ".default", ".default_0")},
    "lora.down.weight": DOWN,
    "lora.up.weight": UP,
    "lora_linear_layer.down.weight": DOWN,
    "lora_linear_layer.up.weight": UP,
    "lora_conv2d_layer.down.weight": DOWN,
    "lora_conv2d_layer.up.weight": UP,
    **{f"lora_magnitude_vector{rest}": DORA for rest in ("", ".weight", ".default", ".default.weight")},
}
"""Other spellings of a key's last part."""

_PARTS = """
    alpha dora_scale lora_down.weight lora_up.weight lora_mid.weight scalar
    hada_w1_a hada_w1_b hada_w2_a hada_w2_b hada_t1 hada_t2
    lokr_w1 lokr_w1_a lokr_w1_b lokr_w2 lokr_w2_a lokr_w2_b lokr_t2
    oft_blocks oft_diag rescale on_input weight diff diff_b w_norm b_norm
    a1.weight a2.weight b1.weight b2.weight bm.weight
"""
PARTS = frozenset(_PARTS.split())
"""The last parts of keys in kohya's and LyCORIS' files."""

SKIPPED = ("bundle_emb.", "emb_params", "string_to_param.")
"""Beginnings of keys that other tools put into LoRA files beside the network: embeddings."""

_SD_WIDTHS, _SDXL_WIDTH = {768, 1024}, 2048
"""Width of the text that the UNet's cross attention reads: SD 1.x and 2.x, SDXL."""

_MAX_NAMED = 3


@dataclass(frozen=True)
class Read:
    """A file's keys understood: tensors under kohya's names, the layout, and keys that were left out."""

    tensors: dict[str, torch.Tensor]
    layout: str
    skipped: tuple[str, ...]
    paths: dict[str, str]
    """Module name to the path as the file had it, where it had one ("unet.down_blocks. ...")."""


@dataclass(frozen=True)
class _Key:
    prefix: str
    path: str
    """Dotted, or flat where kohya's name could not be split."""
    part: str
    layout: str
    spelled: str
    """The module as the file named it."""
    magnitude: bool = False
    """peft's DoRA magnitudes: (out,) or (1, out, 1, 1) where LyCORIS has (out, 1[, 1, 1])."""


def understand(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> Read:
    """Bring a file's tensors under kohya's names. Raises ValueError that names the keys that cannot be."""
    keys: dict[str, _Key] = {}
    unknown: list[str] = []
    skipped: list[str] = []
    for key in tensors:
        found = _split(key)
        if found is not None:
            keys[key] = found
        else:
            (skipped if key.startswith(SKIPPED) else unknown).append(key)
    if unknown or not keys:
        raise ValueError(
            f"{len(unknown)} of its {len(tensors)} keys are not a LoRA's ({named(unknown)})"
            if unknown
            else "it has no keys of a LoRA"
        )
    sdxl, sgm = _sdxl(keys, tensors, metadata)
    out: dict[str, torch.Tensor] = {}
    paths: dict[str, str] = {}
    for key, found in keys.items():
        module = _module(found, sdxl, sgm)
        if f"{module}.{found.part}" in out:
            raise ValueError(f"two of its keys stand for the same weight ({key} and another)")
        value = tensors[key]
        if found.magnitude:
            value = value.reshape(-1, *[1] * (max(value.ndim, 2) - 1))
        out[f"{module}.{found.part}"] = value
        paths[module] = found.spelled
    layouts = sorted({found.layout for found in keys.values()})
    return Read(out, "+".join(layouts), tuple(skipped), paths)


def named(keys: Iterable[str]) -> str:
    """A few of the keys, for a message."""
    some = list(keys)
    return ", ".join(key[:120] for key in some[:_MAX_NAMED]) + (" ..." if len(some) > _MAX_NAMED else "")


def _split(key: str) -> _Key | None:
    return _split_flat(key) or _split_dotted(key)


def _split_flat(key: str) -> _Key | None:
    """kohya's and LyCORIS' keys: everything before the first dot is the module."""
    module, _, part = key.partition(".")
    if module.startswith("lycoris_"):  # LyCORIS without a trainer around it
        rest = module.removeprefix("lycoris_")
        module = ("lora_te_" if rest.startswith("text_model") else "lora_unet_") + rest
    prefix, rest = split_name(module)
    part = ENDINGS.get(part, part)
    if not prefix or not rest or part not in PARTS:
        return None
    return _Key(prefix, path_of(module) or rest, part, "kohya", module)


def _split_dotted(key: str) -> _Key | None:
    """diffusers', peft's and ComfyUI's keys: the module's path with dots, then the network's part."""
    modern = key
    for pattern, replacement in OLD_SPELLINGS:
        modern = pattern.sub(replacement, modern)
    ending = next((end for end in _ALL_ENDINGS if modern.endswith("." + end)), None)
    if ending is None:
        return None
    module = modern[: -len(ending) - 1]
    layout = "peft" if PEFT_WRAPPER in module else "diffusers"
    placed = _place(module)
    if placed is None:
        return None
    prefix, path = placed
    return _Key(prefix, path, ENDINGS.get(ending, ending), layout, module, ending.startswith("lora_magnitude_vector"))


def _place(module: str) -> tuple[str, str] | None:
    """kohya's prefix and the path of a module that is named with dots."""
    for beginning, prefix in ROOTS:
        if module.startswith(beginning):
            return prefix, module[len(beginning) :]
    bare = module.removeprefix(PEFT_WRAPPER)
    return next(((prefix, bare) for pattern, prefix in BARE_ROOTS if pattern.match(bare)), None)


_ALL_ENDINGS = sorted({*ENDINGS, *PARTS} - {"weight"}, key=len, reverse=True)


def _sdxl(
    keys: Mapping[str, _Key], tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]
) -> tuple[bool, bool]:
    """Whether the file is for SDXL, and for one of the real shape, whose UNet's names can be translated."""
    names = [f"{key.prefix}{key.path}" for key in keys.values()]
    widths = {
        tensors[key].shape[1]
        for key, found in keys.items()
        if found.part == DOWN and found.path.endswith("attn2.to_k") and tensors[key].ndim >= 2
    }
    if widths & _SD_WIDTHS:
        return False, False
    said = metadata.get("ss_base_model_version", "").startswith("sdxl")
    sdxl = said or _SDXL_WIDTH in widths or looks_like_sdxl(names)
    return sdxl, sdxl and (_SDXL_WIDTH in widths or looks_like_sdxl(names, deep=True))


def _module(key: _Key, sdxl: bool, sgm: bool) -> str:
    prefix = "lora_te1_" if key.prefix == "lora_te_" and sdxl else key.prefix
    if prefix != "lora_unet_" or sdxl != sgm:
        return flat_name(prefix, key.path)
    return flat_name(prefix, canonical_path(key.path, sgm))

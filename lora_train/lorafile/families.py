"""The family of base models that a network is for, from its metadata, widths, names and blocks."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import torch

from lora_train.records.families import FAMILIES, newest_first
from lora_train.records.family import Family
from lora_train.records.kinds import KINDS

SD1, SD2, SDXL = (FAMILIES[name].title for name in ("sd1", "sd2", "sdxl"))
SD = "SD 1.x or 2.x"
"""If only this is known: their UNets have the same blocks."""

Parts = Mapping[str, torch.Tensor]

_CONTEXTS = {768: SD1, 1024: SD2, 2048: SDXL}
"""Width of the text that the UNet's cross attention reads."""
_TEXT_WIDTHS = {768: SD1, 1024: SD2}
"""Width of the only text encoder."""
_UP_WIDTHS = {1280: SD, 640: SDXL}
"""Width of the second block with attention on the way up."""

_CROSS = re.compile(r"attn2[._]to_[kv]$")
_TEXT = re.compile(r"lora_te_text_model[._].*[._](?:[qkv]_proj|fc1)$")
_SECOND_UP = re.compile(r"(?:up_blocks[._]1[._]attentions|output_blocks[._][345][._]1)[._].*attn1[._]to_[qkv]$")
_ONLY_SD = re.compile(
    r"(?:down_blocks[._](?:0[._]attentions|3)|up_blocks[._](?:[23][._]attentions|3))[._]"
    r"|input_blocks[._](?:[12][._]1|9|1\d)[._]"
    r"|output_blocks[._](?:[678][._]1|9|1\d)[._]"
)
"""Attention, or blocks, where SDXL has none."""
_ONLY_SDXL = re.compile(
    r"up_blocks[._]0[._]attentions[._]|output_blocks[._][012][._]1[._](?!conv)|transformer_blocks[._][1-9]"
    r"|(?:label_emb|add_embedding)[._]"
)
_SGM = re.compile(r"(?:^|_|\.)(?:input_blocks|middle_block|output_blocks)[._]")
_OTHERS = (
    (re.compile(r"(?:double|single)_blocks[._]|single_transformer_blocks[._]"), "Flux"),
    (re.compile(r"joint_blocks[._]"), "SD 3"),
    (re.compile(r"(?:^|[._])blocks[._]\d+[._](?:self|cross)_attn[._]"), "Wan"),
    (re.compile(r"model\.layers\.\d+\.(?:self_attn|mlp)"), "a language model"),
)


def family_of(modules: Mapping[str, Parts], metadata: Mapping[str, str], flat: bool = True) -> str:
    """ "SD 1.x", "SD 2.x", "SDXL", `SD`, the name of another family, or "" if it is unknown.

    `modules` are by kohya's prefix and their path, with dots or underscores. Shapes take precedence over metadata. With
    `flat` False the prefix `lora_te_` is ignored: other layouts use the same name for SDXL's first text encoder and for
    an only one.
    """
    names = list(modules)
    owner = next((one for one in newest_first() if one.owns is not None and one.owns(names)), None)
    if owner is not None:
        return owner.title
    return (
        _one(_CONTEXTS.get(width, "") for width in _widths(modules, _CROSS))
        or _said(metadata)
        or _by_prefix(modules, flat)
        or other_family(modules)
        or _by_blocks(modules)
        or (SDXL if any(_SGM.search(name) for name in modules) else "")
    )


def other_family(names: Iterable[str]) -> str:
    """A family other than Stable Diffusion 1, 2 or XL, by names of modules or whole keys; "" if there is none."""
    names = list(names)
    return next((family for pattern, family in _OTHERS if any(map(pattern.search, names))), "")


def _said(metadata: Mapping[str, str]) -> str:
    for field in ("ss_base_model_version", "modelspec.architecture"):
        said = metadata.get(field, "").strip().lower().replace(" ", "_").replace("-", "_")
        for family in newest_first():
            if family.said and re.match(family.said, said):
                return family.title
    return ""


def known_family(title: str) -> Family | None:
    """The record of the family that `family_of` returns; None for other families, and if it is not a single one."""
    return next((family for family in FAMILIES.values() if family.title == title), None)


def _by_prefix(modules: Mapping[str, Parts], flat: bool) -> str:
    if any(name.startswith(("lora_te1_", "lora_te2_")) for name in modules):
        return SDXL
    if not flat or not any(name.startswith("lora_te_") for name in modules):
        return ""
    return _one(_TEXT_WIDTHS.get(width, "") for width in _widths(modules, _TEXT)) or SD


def _by_blocks(modules: Mapping[str, Parts]) -> str:
    sd, sdxl = (any(map(pattern.search, modules)) for pattern in (_ONLY_SD, _ONLY_SDXL))
    if sd != sdxl:
        return SD if sd else SDXL
    return _one(_UP_WIDTHS.get(width, "") for width in _widths(modules, _SECOND_UP))


def _one(found: Iterable[str]) -> str:
    """The family on which all agree, or ""."""
    families = set(filter(None, found))
    return families.pop() if len(families) == 1 else ""


def _widths(modules: Mapping[str, Parts], pattern: re.Pattern[str]) -> set[int]:
    found = (input_width(parts) for name, parts in modules.items() if pattern.search(name))
    return {width for width in found if width}


def input_width(parts: Parts) -> int:
    """The number of inputs of the module that a network changes, from its parts; 0 if they do not show it."""

    def side(part: str, at: int = 1) -> int:
        return parts[part].shape[at] if part in parts and parts[part].ndim > at else 0

    ways = (kind.inputs for kind in KINDS.values() if kind.inputs is not None)
    return next((width for inputs in ways if (width := inputs(side))), 0)

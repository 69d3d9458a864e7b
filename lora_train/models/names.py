"""How LoRA files name the modules of Stable Diffusion's families, after kohya's sd-scripts.

A name is a prefix and the module's path, dots as underscores. SD 1.x and 2.x use diffusers' UNet paths and
the prefix `lora_te`; SDXL uses the paths of its original code (`sgm`) and `lora_te1`, `lora_te2`. Text
encoders have transformers' paths in all of them: SD 2.x too, with the 23 layers that it uses.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from torch import nn

from lora_train.models.ldm_keys import Translator, UnetShape, unet_pairs
from lora_train.models.text import file_name_of
from lora_train.records.families import FAMILIES

_ONE, _TWO = FAMILIES["sd1"], FAMILIES["sdxl"]
UNET = _ONE.denoiser.prefix
ONE_ENCODER, TWO_ENCODERS = (tuple(side.prefix for side in family.texts) for family in (_ONE, _TWO))

UNET_TARGETS = re.compile(r"(?:down_blocks|mid_block|up_blocks)\..*attentions\.\d+\..+")
UNET_CONV_TARGETS = re.compile(
    r"(?:down_blocks|mid_block|up_blocks)\..*(?:attentions|resnets|downsamplers|upsamplers)\.\d+\..+"
)
TEXT_TARGETS = re.compile(r"(?:text_model\.)?encoder\.layers\.\d+\.(?:self_attn|mlp)\..+")

MATRICES = (nn.Linear, nn.Conv2d)
NORMS = (nn.LayerNorm, nn.GroupNorm)

_BLOCK = re.compile(r"(input|output)_blocks\.(\d+)\.|(middle)_block\.")


class UnetNames:
    """Names of the modules of one diffusers UNet."""

    def __init__(self, unet: Any, sgm: bool) -> None:
        self._translator = Translator(unet_pairs(UnetShape.of_config(unet.config)))
        self._sgm = sgm
        self._paths = {self.of(path): path for path, _ in unet.named_modules()}

    def ldm(self, path: str) -> str:
        """The path in the original code."""
        return self._translator.to_ldm(path)

    def of(self, path: str) -> str:
        """The name in files."""
        return f"{UNET}_{(self.ldm(path) if self._sgm else path).replace('.', '_')}"

    def block_of(self, name: str) -> str:
        """ "IN00" ..., "M00", "OUT00" ..., counted as in the original code; "BASE" outside of them."""
        found = _BLOCK.match(self.ldm(self._paths.get(name, "")) + ".")
        if found is None:
            return "BASE"
        return "M00" if found[3] else f"{'IN' if found[1] == 'input' else 'OUT'}{int(found[2]):02d}"


def text_name(prefix: str, path: str) -> str:
    """The name in files of a text encoder's module."""
    return f"{prefix}_{file_name_of(path).replace('.', '_')}"


def text_prefixes(encoders: Sequence[nn.Module]) -> tuple[str, ...]:
    """The prefixes of these text encoders."""
    return ONE_ENCODER if len(encoders) == 1 else TWO_ENCODERS


def is_layer(module: nn.Module) -> bool:
    """Whether networks of some kind can change this module's weight."""
    return isinstance(module, MATRICES + NORMS) and getattr(module, "weight", None) is not None


def target_names(
    unet: Any, names: UnetNames, encoders: Sequence[nn.Module], convolutions: bool, norms: bool = False
) -> dict[str, str]:
    """kohya's default targets, name in files to "prefix:path".

    Every Linear and 1x1 convolution of the attention blocks, and of the text encoders' attention and MLP;
    with `convolutions` also all modules of the residual, down- and upsampling blocks; with `norms` the
    norms of all these blocks of the UNet.
    """
    found = {}
    pattern = UNET_CONV_TARGETS if convolutions else UNET_TARGETS
    for path, module in unet.named_modules():
        matrix = isinstance(module, MATRICES) and pattern.fullmatch(path) and (convolutions or not _large(module))
        norm = norms and isinstance(module, NORMS) and UNET_CONV_TARGETS.fullmatch(path)
        if matrix or norm:
            found[names.of(path)] = f"{UNET}:{path}"
    for prefix, encoder in zip(text_prefixes(encoders), encoders):
        for path, module in encoder.named_modules():
            if TEXT_TARGETS.fullmatch(path) and isinstance(module, MATRICES):
                found[text_name(prefix, path)] = f"{prefix}:{path}"
    return found


def all_layers(unet: Any, encoders: Sequence[nn.Module]) -> dict[str, nn.Module]:
    """Every Linear, Conv2d and norm by its name in files, whether we train it or not.

    SDXL's UNet modules are also listed under diffusers' names, after the usual ones: files use both.
    """
    found: dict[str, nn.Module] = {}
    for sgm in (True, False) if len(encoders) > 1 else (False,):
        names = UnetNames(unet, sgm)
        found |= {names.of(path): module for path, module in unet.named_modules() if is_layer(module)}
    for prefix, encoder in zip(text_prefixes(encoders), encoders):
        found |= {text_name(prefix, path): module for path, module in encoder.named_modules() if is_layer(module)}
    return found


def _large(module: nn.Module) -> bool:
    return isinstance(module, nn.Conv2d) and module.kernel_size != (1, 1)

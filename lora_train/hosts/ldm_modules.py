"""The modules of a checkpoint as a WebUI has loaded it (LDM's code), by the names that LoRA files use."""

from __future__ import annotations

from typing import Any

from torch import nn

from lora_train.errors import LoraTrainError
from lora_train.models.ldm_keys import Translator, UnetShape, unet_pairs
from lora_train.models.names import is_layer as is_target
from lora_train.models.text import file_name_of


def modules_by_file_name(model: Any) -> dict[str, nn.Module]:
    """`lora_unet_...` and `lora_te_...` names to the Linear and Conv2d modules of `shared.sd_model`.

    Raises LoraTrainError for what is not an SD 1.x checkpoint in LDM's code.
    """
    unet = getattr(getattr(model, "model", None), "diffusion_model", None)
    stage = getattr(model, "cond_stage_model", None)
    text = getattr(getattr(stage, "wrapped", stage), "transformer", None)
    if unet is None or text is None:
        raise LoraTrainError(
            "this kind of checkpoint is not supported here.", "", "Switch the bundled Lora extension on."
        )
    return _unet(unet) | _text(text)


def _unet(unet: Any) -> dict[str, nn.Module]:
    shape = UnetShape(*_layers_and_attention(unet))
    translator = Translator(unet_pairs(shape))
    found = {}
    for path, module in unet.named_modules():
        if is_target(module):
            ours = translator.to_diffusers(f"{path}.weight").removesuffix(".weight")
            found[f"lora_unet_{ours.replace('.', '_')}"] = module
    return found


def _layers_and_attention(unet: Any) -> tuple[int, tuple[bool, ...]]:
    """Layers a level, and which levels have attention, off the input blocks."""
    downs = [i for i, block in enumerate(unet.input_blocks) if hasattr(block[0], "op")]
    layers = (downs[0] if downs else len(unet.input_blocks)) - 1
    firsts = [1 + level * (layers + 1) for level in range(len(downs) + 1)]
    return layers, tuple(len(unet.input_blocks[i]) > 1 for i in firsts)


def _text(text: Any) -> dict[str, nn.Module]:
    return {
        f"lora_te_{file_name_of(path).replace('.', '_')}": module
        for path, module in text.named_modules()
        if is_target(module)
    }

"""The modules of a checkpoint as a WebUI has loaded it (LDM's code), by the names that LoRA files use."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from lora_train.errors import LoraTrainError
from lora_train.models.ldm_keys import Translator, UnetShape, unet_pairs
from lora_train.models.names import ONE_ENCODER, TWO_ENCODERS, UNET, is_layer, text_name
from lora_train.models.open_clip_keys import module_path


class AttentionPart(nn.Linear):
    """Query, key or value of a fused attention: a Linear whose weight is a view of the whole matrix."""

    def __init__(self, attention: nn.MultiheadAttention, index: int) -> None:
        nn.Module.__init__(self)
        self.in_features = self.out_features = attention.embed_dim
        self._attention, self._index = [attention], index  # in a list, so that it is not a child of this module

    @property
    def weight(self) -> torch.Tensor:  # type: ignore[override]
        """The part's rows."""
        return self._attention[0].in_proj_weight.chunk(3)[self._index]  # type: ignore[no-any-return]


def modules_by_file_name(model: Any) -> dict[str, nn.Module]:
    """`lora_unet_...` and `lora_te_...` (`lora_te1_...`) names to the modules of `shared.sd_model`.

    Raises LoraTrainError for anything but an SD 1.x, SD 2.x or SDXL checkpoint in LDM's code.
    """
    unet = getattr(getattr(model, "model", None), "diffusion_model", None)
    embedders = getattr(getattr(model, "conditioner", None), "embedders", None)
    stages = [getattr(model, "cond_stage_model", None)] if embedders is None else list(embedders)
    texts = [text for text in map(_text_model, stages) if text is not None]
    prefixes = ONE_ENCODER if embedders is None else TWO_ENCODERS
    if unet is None or len(texts) != len(prefixes):
        raise LoraTrainError(
            "this kind of checkpoint is not supported here.", "", "Switch the bundled Lora extension on."
        )
    found = _unet(unet, sgm_names=embedders is not None)
    for prefix, text in zip(prefixes, texts):
        found |= {text_name(prefix, path): module for path, module in _text_layers(text)}
    return found


def tokenizers_of(model: Any) -> list[Any]:
    """The CLIP tokenizers of the text encoders of `shared.sd_model`."""
    stage = getattr(model, "cond_stage_model", None)
    stages = [stage, *getattr(stage, "embedders", ())]
    found = [getattr(part, "tokenizer", None) for it in stages for part in (it, getattr(it, "wrapped", None))]
    return [tokenizer for tokenizer in found if hasattr(tokenizer, "get_vocab")]


def _text_model(stage: Any) -> Any:
    """The text model in one of the WebUI's embedders: transformers' or OpenCLIP's; None for other embedders."""
    inner = getattr(stage, "wrapped", stage)
    return getattr(inner, "transformer", None) or getattr(inner, "model", None)


def _unet(unet: Any, sgm_names: bool) -> dict[str, nn.Module]:
    """SDXL's modules by their own paths first, then all by diffusers' paths."""
    layers = {path: module for path, module in unet.named_modules() if is_layer(module)}
    translator = Translator(unet_pairs(UnetShape(*_layers_and_attention(unet))))
    found = {f"{UNET}_{path}".replace(".", "_"): module for path, module in layers.items()} if sgm_names else {}
    for path, module in layers.items():
        found.setdefault(f"{UNET}_{translator.to_diffusers(path)}".replace(".", "_"), module)
    return found


def _layers_and_attention(unet: Any) -> tuple[int, tuple[bool, ...]]:
    """The layers per level, and which levels have attention, from the input blocks."""
    downs = [i for i, block in enumerate(unet.input_blocks) if hasattr(block[0], "op")]
    layers = (downs[0] if downs else len(unet.input_blocks)) - 1
    firsts = [1 + level * (layers + 1) for level in range(len(downs) + 1)]
    return layers, tuple(len(unet.input_blocks[i]) > 1 for i in firsts)


def _text_layers(text: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Layers of a text model by transformers' paths."""
    for path, module in text.named_modules():
        if isinstance(module, nn.MultiheadAttention):
            ours = module_path(f"{path}.out_proj")
            if ours is not None:
                for index, part in enumerate(("q_proj", "k_proj", "v_proj")):
                    yield ours.replace("out_proj", part), AttentionPart(module, index)
        elif is_layer(module):
            yield module_path(path) or path, module

"""LoRAs on SD 2.x and SDXL as the WebUI has them loaded: LDM's and OpenCLIP's modules, fused attention included."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from lora_train.errors import LoraTrainError
from lora_train.hosts.ldm_modules import modules_by_file_name, tokenizers_of
from lora_train.lorafile.applying import Applier
from lora_train.lorafile.applying import modules_by_file_name as of_ours
from lora_train.lorafile.writing import write_lora
from lora_train.models.ldm_keys import SD2_TEXT_PREFIX, SDXL_TEXT_PREFIXES, UNET_PREFIX
from lora_train.models.opening import open_model
from lora_train.networks.base import Form
from lora_train.networks.inject import create_networks
from lora_train.prompt.syntax import LoraTag
from tests.hosts.ldm_model import _grow, _Tree
from tests.models.tiny import Tiny, checkpoint_tensors, tiny_sd2, tiny_sdxl, write_folder


def _tree(tensors: dict[str, torch.Tensor], prefix: str) -> nn.Module:
    """Linear, Conv2d and MultiheadAttention modules with these weights, at the places that their names say."""
    root = _Tree()
    leaves = sorted(
        ((name.removeprefix(prefix), value) for name, value in tensors.items() if name.startswith(prefix)),
        key=lambda item: [int(part) if part.isdigit() else -1 for part in item[0].split(".")],
    )
    for name, value in leaves:
        path = name.removesuffix(".weight")
        if name.endswith(".attn.in_proj_weight"):
            _grow(root, name.removesuffix(".in_proj_weight"), nn.MultiheadAttention(value.shape[1], 1))
        elif name.endswith(".weight") and value.ndim in (2, 4) and "embedding" not in name and ".attn." not in name:
            out, inner = value.shape[:2]
            _grow(root, path, nn.Linear(inner, out) if value.ndim == 2 else nn.Conv2d(inner, out, value.shape[2]))
    own = root.state_dict()
    root.load_state_dict({name: value for name, value in leaves if name in own}, strict=False)
    return root


def _stage(**parts: Any) -> Any:
    return SimpleNamespace(wrapped=SimpleNamespace(**parts))


def loaded_sd2(tiny: Tiny) -> tuple[Any, dict[str, nn.Module]]:
    """`shared.sd_model`, and the trees in it by their prefix in a checkpoint."""
    tensors = checkpoint_tensors(tiny)
    unet, text = _tree(tensors, UNET_PREFIX), _tree(tensors, SD2_TEXT_PREFIX)
    model = SimpleNamespace(model=SimpleNamespace(diffusion_model=unet), cond_stage_model=_stage(model=text))
    return model, {UNET_PREFIX: unet, SD2_TEXT_PREFIX: text}


def loaded_sdxl(tiny: Tiny) -> tuple[Any, dict[str, nn.Module]]:
    """As `loaded_sd2`; the conditioner has three more embedders, for the sizes."""
    tensors = checkpoint_tensors(tiny)
    unet = _tree(tensors, UNET_PREFIX)
    first, second = (_tree(tensors, prefix) for prefix in SDXL_TEXT_PREFIXES)
    words = SimpleNamespace(get_vocab=dict)
    conditioner = SimpleNamespace(
        embedders=[_stage(transformer=first, tokenizer=words), _stage(model=second), *[nn.Module()] * 3]
    )
    model = SimpleNamespace(
        model=SimpleNamespace(diffusion_model=unet), conditioner=conditioner, cond_stage_model=conditioner
    )
    return model, {UNET_PREFIX: unet, **dict(zip(SDXL_TEXT_PREFIXES, (first, second)))}


@pytest.mark.parametrize(("make", "load"), [(tiny_sd2, loaded_sd2), (tiny_sdxl, loaded_sdxl)], ids=["sd2", "sdxl"])
def test_the_weights_become_what_ours_become(
    make: Callable[[], Tiny], load: Callable[[Tiny], Any], tmp_path: Path
) -> None:
    """A LoRA on all targets, applied to our model and to the WebUI's: then ours, written in its layout, is equal."""
    model: Any = open_model(write_folder(make(), tmp_path / "folder"))
    prefixes = ("lora_unet", *model.text_prefixes)
    networks = create_networks(model, "lora", Form(2, 2.0), torch.Generator().manual_seed(0), prefixes, Form(2, 2.0))
    for network in networks.networks.values():
        nn.init.normal_(network.up, std=0.1)
    file = tmp_path / "sara.safetensors"
    write_lora(file, networks.file_tensors(), {}, "fp32", overwrite=True)
    loaded, trees = load(make())
    before = {prefix: {n: v.clone() for n, v in tree.state_dict().items()} for prefix, tree in trees.items()}
    applier = Applier(modules_by_file_name(loaded))
    tag = LoraTag("sara", 0.5, 1.5)
    assert applier.apply([(tag, file)])[0].unmatched == ()
    Applier(of_ours(model)).apply([(tag, file)])
    expected = checkpoint_tensors(Tiny(model.unet, model.vae, model.text_encoders, {}, make().unused_layer))
    changed = 0
    for prefix, tree in trees.items():
        for name, value in tree.state_dict().items():
            if prefix + name in expected:
                assert torch.allclose(value, expected[prefix + name], atol=1e-6), prefix + name
                changed += not torch.equal(value, before[prefix][name])
    assert changed == len(networks.networks) - 2 * 3  # query, key and value of three layers are one tensor each
    applier.remove()
    assert all(torch.equal(v, before[p][n]) for p, tree in trees.items() for n, v in tree.state_dict().items())


def test_tokenizers_are_found_in_each_embedder() -> None:
    assert len(tokenizers_of(loaded_sdxl(tiny_sdxl())[0])) == 1
    assert tokenizers_of(None) == []


def test_the_refiner_is_refused() -> None:
    model, _ = loaded_sdxl(tiny_sdxl())
    model.conditioner.embedders = model.conditioner.embedders[1:]
    with pytest.raises(LoraTrainError, match="not supported here"):
        modules_by_file_name(model)

"""Twenty steps of ours and of peft with diffusers, from the same values on the same batches: the same weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from lora_train.models.opening import open_model
from lora_train.networks.base import Form
from lora_train.networks.dora import DoraModule
from lora_train.networks.inject import NetworkSet, create_networks
from lora_train.networks.lora import LoraModule
from lora_train.train.step import Draw, Row, backward

STEPS = 20
# with the default eps of 1e-8 the rounding of gradients that are nearly 0 becomes whole steps
ADAMW = {"lr": 1e-3, "eps": 1e-6}
PREFIXES = ("lora_unet", "lora_te")
CAPTIONS = ["red star on blue", "green square on red"]
OFF = torch.autocast("cpu", enabled=False)


def _batches(model: Any) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(3)
    return [
        (
            torch.randn(2, 4, 8, 8, generator=generator),
            torch.randn(2, 4, 8, 8, generator=generator),
            model.draw_timesteps(2, generator),
        )
        for _ in range(STEPS)
    ]


def _train_ours(model: Any, networks: NetworkSet) -> None:
    optimizer = torch.optim.AdamW(networks.parameters(), **ADAMW)
    networks.attach()
    for x, noise, t in _batches(model):
        draw = Draw(noise, t, torch.ones(2))
        backward(model, networks, [Row(x, CAPTIONS)], draw, model.encode_text, lambda loss: loss, OFF)
        optimizer.step()
        optimizer.zero_grad()
    networks.detach()


def _train_pefts(model: Any, dora: bool, ours: NetworkSet) -> dict[str, Any]:
    """peft's layers by our names, after the training; `ours` gives the values they start from."""
    from peft import LoraConfig, inject_adapter_in_model

    layers: dict[str, Any] = {}
    for prefix, root in model.roots().items():
        places = {
            place.split(":", 1)[1]: name
            for name, place in model.module_names().items()
            if place.startswith(f"{prefix}:")
        }
        config = LoraConfig(r=4, lora_alpha=2, target_modules=list(places), use_dora=dora)
        inject_adapter_in_model(config, root)
        layers |= {name: root.get_submodule(path) for path, name in places.items()}
    with torch.no_grad():
        for name, layer in layers.items():
            layer.lora_A["default"].weight.copy_(_lora(ours, name).down)
    parameters = [p for root in model.roots().values() for p in root.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, **ADAMW)
    for x, noise, t in _batches(model):
        predicted = model.unet(model.noised(x, noise, t), t, model.encode_text(CAPTIONS)["states"]).sample
        nn.functional.mse_loss(predicted, model.target(x, noise, t)).backward()
        optimizer.step()
        optimizer.zero_grad()
    return layers


def _lora(networks: NetworkSet, name: str) -> LoraModule:
    module = networks.networks[name]
    inner = module.inner if isinstance(module, DoraModule) else module
    assert isinstance(inner, LoraModule)
    return inner


@pytest.mark.parametrize("dora", [False, True], ids=["lora", "dora"])
def test_the_same_weights_after_twenty_steps(base: Path, dora: bool) -> None:
    pytest.importorskip("peft")
    form = Form(4, 2.0, dora_wd=dora, wd_on_output=True)

    def new() -> tuple[Any, NetworkSet]:
        model = open_model(base)
        return model, create_networks(model, "lora", form, torch.Generator().manual_seed(0), PREFIXES)

    model, networks = new()
    before = {name: _lora(networks, name).down.detach().clone() for name in networks.networks}
    layers = _train_pefts(open_model(base), dora, networks)
    _train_ours(model, networks)
    assert layers.keys() == dict(networks.networks).keys()
    moved = []
    for name, layer in layers.items():
        ours = _lora(networks, name)
        assert torch.allclose(ours.down, layer.lora_A["default"].weight, atol=1e-5), name
        assert torch.allclose(ours.up, layer.lora_B["default"].weight, atol=1e-5), name
        moved.append(float((ours.down - before[name]).detach().abs().max()))
        module = networks.networks[name]
        if isinstance(module, DoraModule):
            magnitude = layer.lora_magnitude_vector["default"].weight
            assert torch.allclose(module.dora_scale.flatten(), magnitude.flatten(), rtol=1e-5, atol=1e-5), name
    assert min(moved) > 1e-3

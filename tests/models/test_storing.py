"""The frozen base in 8 and 4 bits: the values it computes with, its gradient, and what is kept for that."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from lora_train.lorafile.applying import modules_by_file_name
from lora_train.models.storing import FORMS, StoredConv2d, StoredLinear, store_base
from lora_train.networks.base import Form
from lora_train.networks.inject import create_networks
from lora_train.networks.registry import new_network
from tests.train.smallest import open_tiny

LOST = {"fp8": 0.03, "int8": 0.01, "nf4": 0.1}
"""The share of the norm that uniformly and normally distributed weights lose."""


def _stored(how: str, dtype: torch.dtype = torch.float32) -> tuple[Any, dict[str, torch.Tensor]]:
    """The least SDXL with its base stored, and its weights before."""
    model = open_tiny("epsilon")
    before = {name: value.clone() for name, value in model.unet.state_dict().items()}
    store_base(model, how, dtype)
    return model, before


def _layers(model: Any) -> dict[str, Any]:
    return {n: m for n, m in model.unet.named_modules() if isinstance(m, (StoredLinear, StoredConv2d))}


@pytest.mark.parametrize("how", list(FORMS))
def test_weights_lose_little_and_the_large_ones_are_stored(how: str) -> None:
    model, before = _stored(how)
    layers = _layers(model)
    for name, layer in layers.items():
        weight = before[f"{name}.weight"]
        lost = torch.linalg.vector_norm(layer.weight - weight) / torch.linalg.vector_norm(weight)
        assert 0 < lost < LOST[how], name
        size = layer.stored.numel() * layer.stored.element_size()
        assert size == weight.numel() / (2 if how == "nf4" else 1)
    kept = {name for name, _ in model.unet.named_parameters() if name.endswith("weight")}
    assert {"conv_in.weight", "conv_out.weight", "time_embedding.linear_1.weight"} <= kept
    assert not [name for name in layers if "norm" in name or "time_emb" in name]
    large = {n for n, m in model.unet.named_modules() if isinstance(m, nn.Linear) and "attentions" in n}
    assert {n for n in large if before[f"{n}.weight"].numel() >= 4096} <= layers.keys()


@pytest.mark.parametrize("how", list(FORMS))
def test_it_computes_with_the_decoded_weights_forward_and_backward(how: str) -> None:
    """The same bits as the layer with that weight; nothing but the stored weight is kept."""
    model, _ = _stored(how)
    plain = open_tiny("epsilon")
    for name, layer in _layers(model).items():
        plain.unet.get_submodule(name).weight.data = layer.weight
    x = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    given = {"states": torch.randn(2, 77, 128), "pooled": torch.randn(2, 48), "time_ids": torch.ones(2, 6)}
    outs = []
    for one in (model, plain):
        own = x.clone().requires_grad_()
        out = one.predict(own, torch.tensor([3, 700]), given)
        (gradient,) = torch.autograd.grad(out.square().sum(), own)
        outs.append((out, gradient))
    assert torch.equal(outs[0][0], outs[1][0])
    assert torch.allclose(outs[0][1], outs[1][1], rtol=1e-4, atol=1e-6)


def test_nothing_is_kept_for_the_backward_pass() -> None:
    layer = nn.Linear(128, 128).requires_grad_(False)
    model = open_tiny("epsilon")
    kept: list[torch.Tensor] = []
    store_base(model, "fp8", torch.float32)
    layer = next(iter(_layers(model).values()))
    shape = (2, layer.shape[1]) if isinstance(layer, nn.Linear) else (1, layer.shape[1], 4, 4)
    with torch.autograd.graph.saved_tensors_hooks(lambda one: kept.append(one) or one, lambda one: one):
        layer(torch.randn(shape, requires_grad=True))
    assert not kept


@pytest.mark.parametrize("how", list(FORMS))
def test_moving_and_casting_change_nothing_that_is_stored(how: str) -> None:
    """`model.to` casts what is computed with; scales in another precision would change every weight."""
    model, _ = _stored(how, torch.bfloat16)
    before = {name: (layer.stored.clone(), layer.scale.clone()) for name, layer in _layers(model).items()}
    model.to(torch.device("cpu"), torch.bfloat16)
    for name, layer in _layers(model).items():
        stored, scale = before[name]
        assert torch.equal(layer.stored, stored) and layer.stored.dtype == stored.dtype
        assert torch.equal(layer.scale, scale) and layer.scale.dtype == scale.dtype
        assert layer.weight.dtype == torch.bfloat16
        assert layer.bias is None or layer.bias.dtype == torch.bfloat16


def test_fp8_weights_are_the_same_in_every_precision() -> None:
    """A scale that is a power of two is exact."""
    model, _ = _stored("fp8")
    for layer in _layers(model).values():
        exact = layer.weight
        for dtype in (torch.bfloat16, torch.float16):
            layer.dtype = dtype
            assert torch.equal(layer.weight.float(), exact)


def test_a_layer_that_would_lose_too_much_stays_as_it_is() -> None:
    """One huge weight in each row leaves no bits for the others in int8."""
    model = open_tiny("epsilon")
    name = "mid_block.resnets.0.conv1"
    weight = model.unet.get_submodule(name).weight
    weight.data.flatten(1)[:, 0] = 15.0
    weight.data.flatten(1)[:, 1:] = 0.05 * torch.randn(weight.flatten(1).shape[0], weight[0].numel() - 1)
    notes = store_base(model, "int8", torch.float32)
    assert name not in _layers(model) and torch.equal(model.unet.get_submodule(name).weight, weight)
    assert any("1 of its" in note and "stay as they are" in note for note in notes)


@pytest.mark.parametrize("kind", ["lora", "loha", "lokr", "oft", "boft", "ia3", "glora", "full", "dora"])
def test_networks_work_on_a_stored_base(kind: str) -> None:
    """DoRA, OFT and others that change the base's weight itself get the decoded one."""
    model, _ = _stored("fp8")
    form = Form(64, 1.0, dora_wd=kind == "dora") if kind == "boft" else Form(4, 1.0, dora_wd=kind == "dora")
    layers = list(_layers(model).values())
    for layer in (next(one for one in layers if isinstance(one, kind_)) for kind_ in (nn.Linear, nn.Conv2d)):
        network = new_network("lora" if kind == "dora" else kind, layer, form, torch.Generator().manual_seed(0))
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(0.05 * torch.randn(parameter.shape))
        plain = nn.Linear(1, 1) if isinstance(layer, nn.Linear) else nn.Conv2d(1, 1, 1)
        plain.weight = nn.Parameter(layer.weight, requires_grad=False)
        for name in ("stride", "padding", "dilation", "groups"):
            if hasattr(layer, name):
                setattr(plain, name, getattr(layer, name))
        shape = (2, 3, layer.shape[1]) if isinstance(layer, nn.Linear) else (2, layer.shape[1], 6, 6)
        x = torch.randn(shape, requires_grad=True)
        found, expected = (network.output_delta(base, x) for base in (layer, plain))
        assert torch.equal(found, expected) and found.abs().max() > 0
        found.sum().backward()
        assert all(parameter.grad is not None for parameter in network.parameters())


def test_names_and_networks_are_those_of_the_base_as_it_was() -> None:
    plain = open_tiny("epsilon")
    model, _ = _stored("nf4")
    assert model.module_names(True, True) == plain.module_names(True, True)
    assert modules_by_file_name(model).keys() == modules_by_file_name(plain).keys()
    shapes = []
    for one in (model, plain):
        networks = create_networks(one, "lora", Form(4, 2.0), torch.Generator(), ("lora_unet",), Form(4, 2.0))
        shapes.append({name: value.shape for name, value in networks.file_tensors().items()})
    assert shapes[0] == shapes[1]

"""PiSSA and OLoRA against peft, and what their files hold."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from lora_train.networks.base import Form
from lora_train.networks.lora import LoraModule
from lora_train.networks.registry import load_network, new_network

BASES = [lambda: nn.Linear(12, 20, bias=False), lambda: nn.Conv2d(6, 20, 3, padding=1, bias=False)]


def _new(base: nn.Module, start: str) -> LoraModule:
    network = new_network("lora", base, Form(4, 2.0, init_lora_weights=start), torch.Generator())
    assert isinstance(network, LoraModule)
    return network


@pytest.mark.parametrize("start", ["pissa", "olora"])
def test_trained_like_pefts(start: str) -> None:
    """10 steps from peft's own start: the same whole weight as peft's residual base plus network."""
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(12, 20, bias=False))
    base = copy.deepcopy(plain[0]).requires_grad_(False)
    config = peft.LoraConfig(r=4, lora_alpha=2, target_modules=["0"], init_lora_weights=start)
    theirs: Any = peft.get_peft_model(plain, config)
    network = _new(base, start)
    x, y = torch.randn(32, 12), torch.randn(32, 20)
    assert torch.allclose(theirs(x), base(x), atol=1e-5)
    for run, parameters in (
        (theirs, [p for p in theirs.parameters() if p.requires_grad]),
        (lambda x: base(x) + network.output_delta(base, x), list(network.parameters())),
    ):
        optimizer = torch.optim.SGD(parameters, lr=0.5)
        for _ in range(10):
            optimizer.zero_grad()
            ((run(x) - y) ** 2).mean().backward()  # type: ignore[operator]
            optimizer.step()
    assert not torch.allclose(theirs(x), base(x), atol=1e-2)
    assert torch.allclose(base(x) + network.output_delta(base, x), theirs(x), atol=1e-4)


@pytest.mark.parametrize("make", BASES)
@pytest.mark.parametrize("start", ["pissa", "olora"])
def test_the_file_applies_to_the_unmodified_base(start: str, make: Any) -> None:
    torch.manual_seed(0)
    base = make().requires_grad_(False)
    network = _new(base, start)
    assert network.down.abs().max() > 0 and network.up.abs().max() > 0
    assert network.weight_delta(base.weight).abs().max() < 1e-6
    assert float(network.file_tensors()["lora_up.weight"].abs().max()) < 1e-2
    with torch.no_grad():
        network.up.add_(0.01 * torch.randn(network.up.shape))
        network.down.add_(0.01 * torch.randn(network.down.shape))
    delta = network.weight_delta(base.weight)
    tensors = {name: value.half() for name, value in network.file_tensors().items()}
    assert tensors["lora_down.weight"].shape[0] == 8
    again = load_network(base, tensors).weight_delta(base.weight)
    # fp16 rounds the small difference, not the large start: better than a thousandth of the change itself
    assert (again - delta).norm() < 2e-3 * delta.norm()

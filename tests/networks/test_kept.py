"""What networks keep in memory for the backward pass: their factors and the input, nothing of the base's size."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from lora_train.networks.base import Drop, Form
from lora_train.networks.registry import new_network
from tests.networks.samples import BASES, CASES, Case, base_of, network_for, sample_for

LARGE = {
    "linear": lambda: nn.Linear(192, 256),
    "conv3x3": lambda: nn.Conv2d(64, 96, 3, padding=1),
}
FORMS = {
    **{name: (case.kind, case.form) for name, case in CASES.items()},
    "boft": ("boft", Form(8, 1.0)),
    "boft-rescaled": ("boft", Form(8, 1.0, rescaled=True)),
}


def _kept(network: nn.Module, base: nn.Module, x: torch.Tensor, autocast: bool) -> int:
    """Bytes that the backward pass keeps, but for the input and the weights themselves."""
    own = {one.untyped_storage().data_ptr() for one in (x, *network.parameters(), *base.parameters())}
    kept: dict[int, tuple[int, Any]] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes(), tensor
        return tensor

    keeping = torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)
    with keeping, torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        out = network.output_delta(base, x)  # type: ignore[operator]
    total = sum(size for size, _ in kept.values())
    out.float().sum().backward()
    assert all(one.grad is not None for one in network.parameters())
    return total


@pytest.mark.parametrize("place", ["linear", "conv3x3"])
@pytest.mark.parametrize("name", [name for name in FORMS if not name.endswith("whole")])
def test_no_kind_keeps_anything_of_the_size_of_the_weight(name: str, place: str) -> None:
    """LoHa kept 10 bytes for each weight of the base, DoRA and OFT 6, BOFT 35."""
    kind, form = FORMS[name]
    base = LARGE[place]().requires_grad_(False)
    network = new_network(kind, base, form, torch.Generator().manual_seed(0))
    x = torch.randn((1, 2, 192) if place == "linear" else (1, 64, 2, 2), requires_grad=True)
    assert isinstance(base.weight, torch.Tensor)
    for autocast in (False, True):
        if kind == "lora" and not form.dora_wd:  # its factors are cast, and its rank's values kept
            assert _kept(network, base, x, autocast) < 0.4 * base.weight.numel()
        else:
            assert _kept(network, base, x, autocast) < 0.01 * base.weight.numel()


@pytest.mark.parametrize("place", list(BASES))
@pytest.mark.parametrize("name", [name for name in CASES if not name.startswith("lora")])
@pytest.mark.parametrize("dropped", [False, True])
def test_the_bits_are_those_of_the_delta_kept(name: str, place: str, dropped: bool) -> None:
    """Output and gradients, with rank dropout too: the mask of the forward pass, not another."""
    case: Case = CASES[name]
    base, x = base_of(place), sample_for(base_of(place)).requires_grad_()
    network = network_for(case, base)

    def drop() -> Drop | None:
        return Drop(torch.Generator().manual_seed(5), rank=0.5) if dropped else None

    out = network.output_delta(base, x, drop())
    found = torch.autograd.grad((out * out.detach().cos()).sum(), [x, *network.parameters()])
    keep = None
    if dropped:
        keep = Drop(torch.Generator().manual_seed(5), rank=0.5).keep((36,), 0.5, torch.zeros(()))
    weight, bias = network.weight_delta(base.weight), network.bias_delta()  # type: ignore[arg-type]
    if keep is not None:
        weight = weight * keep.view(-1, *[1] * (weight.ndim - 1))
        bias = bias * keep if bias is not None else None
    plain = (
        nn.functional.conv2d(x, weight, bias, base.stride, base.padding)
        if isinstance(base, nn.Conv2d)
        else nn.functional.linear(x, weight, bias)
    )
    expected = torch.autograd.grad((plain * plain.detach().cos()).sum(), [x, *network.parameters()])
    assert torch.equal(out, plain)
    assert all(torch.equal(one, other) for one, other in zip(found, expected))

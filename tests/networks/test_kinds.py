"""Every kind against LyCORIS, autograd, and itself: two ways to the same output."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from lora_train.networks.base import Form
from lora_train.networks.boft import butterfly
from lora_train.networks.glora import Glora
from lora_train.networks.lokr import factorization
from lora_train.networks.registry import kind_of, load_network, new_network
from lora_train.records.kinds import KINDS
from tests.networks.samples import (
    BASES,
    CASES,
    base_of,
    into_theirs,
    network_for,
    sample_for,
    shaken,
    their_module,
    their_tensors,
)

both = pytest.mark.parametrize("base_name", BASES)
every = pytest.mark.parametrize("name", CASES)


def lycoris() -> Any:
    """The witness, where it is installed."""
    return pytest.importorskip("lycoris")


@both
@every
def test_a_new_network_changes_nothing(name: str, base_name: str) -> None:
    base = base_of(base_name)
    network = new_network(CASES[name].kind, base, CASES[name].form, torch.Generator().manual_seed(0))
    assert torch.allclose(network.weight_delta(base.weight), torch.zeros_like(base.weight), atol=1e-6)
    assert torch.allclose(network.output_delta(base, sample_for(base)), torch.zeros(()), atol=1e-5)


@both
@every
def test_the_two_ways_say_the_same(name: str, base_name: str) -> None:
    """What training adds to the output is what applying adds to the weight."""
    base, x = base_of(base_name), sample_for(base_of(base_name))
    network = network_for(CASES[name], base)
    expected = base(x) + network.output_delta(base, x)
    changed = copy.deepcopy(base)
    bias = network.bias_delta()
    with torch.no_grad():
        changed.weight.add_(network.weight_delta(base.weight))
        if bias is not None:
            changed.bias.add_(bias)
    assert not torch.allclose(base(x), expected, atol=1e-2)
    assert torch.allclose(changed(x), expected, atol=1e-4)


@both
@every
def test_ours_in_lycoris(name: str, base_name: str) -> None:
    """LyCORIS has a place for every tensor of ours, and computes the same output from them."""
    lycoris()
    base, x = base_of(base_name), sample_for(base_of(base_name))
    network = network_for(CASES[name], base)
    theirs = their_module(CASES[name], base)
    into_theirs(theirs, network.file_tensors())
    assert theirs.state_dict().keys() == network.file_tensors().keys()
    alpha = network.file_tensors().get("alpha")
    if alpha is not None and name != "glora":
        assert float(theirs.alpha) == pytest.approx(float(alpha))
    with torch.no_grad():
        expected = theirs(x) - base(x)
    assert torch.allclose(network.output_delta(base, x), expected, atol=1e-5)


@both
@every
def test_lycoris_in_ours(name: str, base_name: str) -> None:
    """What LyCORIS writes is recognised by its keys, loads, and gives the same output."""
    lycoris()
    base, x = base_of(base_name), sample_for(base_of(base_name))
    theirs = their_module(CASES[name], copy.deepcopy(base))
    if name == "full":  # LyCORIS writes what it differs by from the weights that it took over
        theirs.apply_to()
    shaken(theirs)
    tensors = their_tensors(theirs)
    kind = kind_of(tensors)
    assert kind is not None and kind.name == CASES[name].kind
    network = load_network(base, tensors)
    assert network.file_tensors().keys() == tensors.keys()
    with torch.no_grad():
        expected = theirs(x) - base(x)
    assert torch.allclose(network.output_delta(base, x), expected, atol=1e-5)
    assert all(torch.allclose(v.float(), tensors[k].float()) for k, v in network.file_tensors().items())


@pytest.mark.parametrize("base_name", ["linear", "conv3x3"])
@pytest.mark.parametrize("name", [n for n in CASES if not n.startswith("dora")])
def test_gradients_equal_lycoris(name: str, base_name: str) -> None:
    """Through ours and through LyCORIS' module, for one loss: the same gradient of every parameter.

    DoRA is left out: LyCORIS lets the gradient through the norm, the paper and peft do not (see test_against_peft).
    """
    lycoris()
    base, x = base_of(base_name), sample_for(base_of(base_name))
    network = network_for(CASES[name], base)
    theirs = their_module(CASES[name], base)
    into_theirs(theirs, network.file_tensors())
    target = torch.randn(base(x).shape, generator=torch.Generator().manual_seed(2))
    ((base(x) + network.output_delta(base, x) - target) ** 2).mean().backward()
    ((theirs(x) - target) ** 2).mean().backward()
    ours = sorted((p.grad for p in network.parameters() if p.grad is not None), key=lambda g: float(g.norm()))
    others = sorted((p.grad for p in theirs.parameters() if p.grad is not None), key=lambda g: float(g.norm()))
    assert len(ours) == len(others) == len(list(network.parameters()))
    for one, other in zip(ours, others):
        assert torch.allclose(one, other, atol=1e-5)


@every
def test_numerical_gradients(name: str) -> None:
    """Against finite differences in fp64: nothing is cut off from its gradient but DoRA's norm."""
    base = nn.Linear(4, 6).double().requires_grad_(False)
    form = CASES[name].form
    small = Form(2, 1.0, **{k: v for k, v in vars(form).items() if k not in ("rank", "alpha", "dora_wd")})
    kind = CASES[name].kind
    network = new_network(kind, base, Form(6, 1.0) if kind == "boft" else small, torch.Generator().manual_seed(0))
    shaken(network)
    network.double()
    x = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    names = [n for n, _ in network.named_parameters()]

    def run(*values: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(network, dict(zip(names, values)), (), {})  # type: ignore[no-any-return]

    network.forward = lambda: network.output_delta(base, x)  # type: ignore[method-assign]
    values = tuple(p.detach().clone().requires_grad_() for p in network.parameters())
    assert torch.autograd.gradcheck(run, values, atol=1e-4)


def test_files_are_written_as_they_were_read() -> None:
    for name in CASES:
        base = base_of("conv3x3")
        tensors = network_for(CASES[name], base).file_tensors()
        again = load_network(base, tensors).file_tensors()
        assert again.keys() == tensors.keys()
        assert all(torch.equal(again[key], tensors[key]) for key in tensors), name


@pytest.mark.parametrize("base_name", ["linear", "conv3x3"])
@every
def test_bf16_autocast_and_a_bf16_base(name: str, base_name: str) -> None:
    base, x = base_of(base_name), sample_for(base_of(base_name))
    network = network_for(CASES[name], base)
    expected = network.output_delta(base, x)
    half = copy.deepcopy(base).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        found = network.output_delta(half, x.bfloat16())
        found.float().square().mean().backward()
    assert found.dtype == torch.bfloat16
    assert (found.float() - expected).norm() < 0.03 * expected.norm()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in network.parameters())
    plain = network.output_delta(half, x.bfloat16())  # as a preview in half precision runs it
    assert plain.dtype == torch.bfloat16 and (plain.float() - expected).norm() < 0.03 * expected.norm()


@pytest.mark.parametrize("norm", [nn.LayerNorm(24), nn.GroupNorm(4, 24)], ids=["layer", "group"])
def test_norms_equal_lycoris(norm: nn.Module) -> None:
    lycoris()
    from lycoris.modules.norms import NormModule

    norm.requires_grad_(False)
    shaken(norm, 5)
    network = new_network("norm", norm, Form(1, 1.0), torch.Generator())
    shaken(network)
    theirs = NormModule("lora_unet_x", norm)
    into_theirs(theirs, network.file_tensors())
    assert theirs.state_dict().keys() == network.file_tensors().keys() == {"w_norm", "b_norm"}
    x = torch.randn(2, 24, 6, 6) if isinstance(norm, nn.GroupNorm) else torch.randn(2, 6, 24)
    assert torch.allclose(norm(x) + network.output_delta(norm, x), theirs(x), atol=1e-5)
    assert isinstance(load_network(norm, network.file_tensors()), type(network))


@pytest.mark.parametrize("dimension", [64, 96, 127, 250, 320, 360, 640, 768, 1280])
@pytest.mark.parametrize("factor", [-1, 2, 4, 8, 10, 16])
def test_sizes_are_lycoris(dimension: int, factor: int) -> None:
    lycoris()
    from lycoris.functional.general import factorization as theirs
    from lycoris.functional.general import power2factorization

    assert factorization(dimension, factor) == theirs(dimension, factor)
    if factor > 0:
        size, count = power2factorization(dimension, factor)
        if count == 0:
            with pytest.raises(ValueError, match="cannot be split"):
                butterfly(dimension, factor)
        else:
            assert butterfly(dimension, factor) == (size, count)


def test_glora_of_old_lycoris_is_read() -> None:
    """Its order of factors, as AUTOMATIC1111's extension computes it: W a2 a1 + b2 b1."""
    base = base_of("linear")
    generator = torch.Generator().manual_seed(0)
    a1, a2 = torch.randn(4, 24, generator=generator), torch.randn(24, 4, generator=generator)
    b1, b2 = torch.randn(4, 24, generator=generator), torch.randn(36, 4, generator=generator)
    tensors = {"a1.weight": a1, "a2.weight": a2, "b1.weight": b1, "b2.weight": b2, "alpha": torch.tensor(2.0)}
    expected = 0.5 * (base.weight @ a2 @ a1 + b2 @ b1)
    assert torch.allclose(Glora().load(base, tensors).weight_delta(base.weight), expected, atol=1e-5)


def test_oft_diag_of_old_lycoris_is_the_rotation_itself() -> None:
    base = base_of("conv3x3")
    turned = torch.linalg.qr(torch.randn(6, 6, 6, generator=torch.Generator().manual_seed(0)))[0]
    network = load_network(base, {"oft_diag": turned})
    whole = torch.block_diag(*turned)
    expected = torch.einsum("oihw,op->pihw", base.weight, whole) - base.weight
    assert torch.allclose(network.weight_delta(base.weight), expected, atol=1e-5)
    assert network.file_tensors().keys() == {"oft_diag", "alpha"}


def test_oft_equals_kohyas_formula() -> None:
    """sd-scripts' networks/oft.py, written out: constraint alpha * out on the norm of all blocks."""
    base = base_of("linear")
    blocks = 0.3 * torch.randn(4, 9, 9, generator=torch.Generator().manual_seed(0))
    network = load_network(base, {"oft_blocks": blocks, "alpha": torch.tensor(1e-2)})
    q = blocks - blocks.transpose(1, 2)
    norm = q.flatten().norm()
    q = q * ((norm.clamp(max=1e-2 * 36) + 1e-8) / (norm + 1e-8))
    eye = torch.eye(9)
    r = (eye + q) @ (eye - q).inverse()
    expected = torch.einsum("knm,kn...->km...", r, base.weight.reshape(4, 9, -1)).reshape(36, 24) - base.weight
    assert torch.allclose(network.weight_delta(base.weight), expected, atol=1e-6)


def test_alpha_missing_or_zero_means_the_rank() -> None:
    base = base_of("linear")
    for name in ("lora", "loha", "lokr", "glora", "dora-rows"):
        tensors = network_for(CASES[name], base).file_tensors()
        deltas = []
        for alpha in (None, 0.0, float(CASES[name].form.rank)):
            changed = {k: v for k, v in tensors.items() if k != "alpha"}
            if alpha is not None:
                changed["alpha"] = torch.tensor(alpha)
            deltas.append(load_network(base, changed).weight_delta(base.weight))
        assert torch.equal(deltas[0], deltas[1]) and torch.equal(deltas[0], deltas[2]), name


def test_a_bias_beside_a_network() -> None:
    base, x = base_of("conv1x1"), sample_for(base_of("conv1x1"))
    tensors = network_for(CASES["lora"], base).file_tensors() | {"diff_b": torch.arange(36.0)}
    network = load_network(base, tensors)
    plain = load_network(base, {k: v for k, v in tensors.items() if k != "diff_b"})
    difference = network.output_delta(base, x) - plain.output_delta(base, x)
    assert torch.allclose(difference, torch.arange(36.0).view(-1, 1, 1).expand_as(difference), atol=1e-4)
    assert network.file_tensors().keys() == tensors.keys()
    with pytest.raises(ValueError, match="does not fit the module's bias"):
        load_network(base, tensors | {"diff_b": torch.arange(35.0)})
    without = nn.Conv2d(24, 36, 1, bias=False)  # readers give such a module a bias
    delta = load_network(without, tensors).bias_delta()
    assert delta is not None and torch.equal(delta, tensors["diff_b"])
    with pytest.raises(ValueError, match="does not fit"):
        load_network(without, tensors | {"diff_b": torch.arange(35.0)})


def test_unknown_keys_and_wrong_shapes_are_named() -> None:
    base = base_of("linear")
    assert kind_of({"lora_up.weight": torch.ones(1), "lora_down.weight": torch.ones(1), "odd": torch.ones(1)}) is None
    with pytest.raises(ValueError, match="no kind of network has the keys odd"):
        load_network(base, {"odd": torch.ones(1)})
    with pytest.raises(ValueError, match="does not fit a LayerNorm"):
        load_network(nn.LayerNorm(4), network_for(CASES["lora"], base).file_tensors())
    other = nn.Linear(40, 44)
    for name in CASES:
        with pytest.raises(ValueError, match="does not fit"):
            load_network(other, network_for(CASES[name], base).file_tensors())


def test_every_kind_has_a_case() -> None:
    assert {case.kind for case in CASES.values()} | {"norm"} == set(KINDS)

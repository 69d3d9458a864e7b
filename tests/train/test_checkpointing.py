"""Activations computed again in the backward pass give the same training; preserving shows what it says."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from lora_train.config import NetworkOptions, RunConfig
from lora_train.models.base import Frame
from lora_train.train.loop import Callbacks, Trainer
from lora_train.train.network import build_network, dropping
from lora_train.train.randomness import Randomness
from lora_train.train.step import Draw, Row, backward
from tests.train.smallest import open_tiny
from tests.train.test_whole_step import DATA, OPTIONS, Shown, dataset_of
from tests.train.test_whole_step import shown as shown

KINDS = ("lora", "loha", "lokr", "oft", "boft", "ia3", "glora", "full", "norm")


def _trained(shown: list[Shown], network: NetworkOptions, **train: Any) -> tuple[dict[str, torch.Tensor], int]:
    """What two steps make of the networks, and how often a convolution of the UNet ran."""
    options = replace(OPTIONS, min_snr_gamma=None, **train)
    model = open_tiny("v_prediction")
    ran: list[bool] = []
    model.unet.down_blocks[0].resnets[0].conv1.register_forward_hook(lambda *_: ran.append(torch.is_grad_enabled()))
    trainer = Trainer(RunConfig(data=DATA, network=network, train=options), model, dataset_of(shown), trigger="sks")
    trainer.callbacks = Callbacks(stopped=lambda: trainer.steps_done >= 2)
    trainer.run()
    trainer.network.detach()
    return {name: value.detach() for name, value in trainer.network.state_dict().items()}, sum(ran)


@pytest.mark.parametrize("kind", KINDS)
def test_the_weights_are_the_same_with_and_without(shown: list[Shown], kind: str) -> None:
    """With all dropouts, accumulation and rows with a base term: multipliers of 1 and of 0."""
    drops: dict[str, Any] = {} if kind in ("ia3", "norm") else {"network_dropout": 0.3, "module_dropout": 0.2}
    network = NetworkOptions(kind=kind, network_dim=4, network_alpha=2.0, constraint=0.0, **drops)
    (kept, once), (again, twice) = (
        _trained(shown, network, gradient_checkpointing=checkpointing, preserve=0.5) for checkpointing in (False, True)
    )
    assert kept.keys() == again.keys() and kept
    for name, value in kept.items():
        assert torch.allclose(value, again[name], rtol=1e-5, atol=1e-7), name
    assert twice == 2 * once > 0  # it ran again with the gradient


def _gradients(kind: str, share: float | None, **options: Any) -> dict[str, torch.Tensor]:
    """Of one step of two rows, the network's multiplier 1 in one and -1 in the other, with every dropout."""
    model = open_tiny("v_prediction")
    random = Randomness(7)
    network = NetworkOptions(kind=kind, network_dim=4, network_alpha=2.0, **options)
    built = build_network(RunConfig(network=network), model, ("lora_unet",), random.torch("weights"))
    with torch.no_grad():
        for number, parameter in enumerate(built.network.parameters()):
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number)))
    if share is not None:
        model.checkpoint_activations(share)
    built.network.attach()
    given = torch.Generator().manual_seed(3)
    x, noise = (torch.randn(2, 4, 8, 8, generator=given) for _ in range(2))
    states = {"states": torch.randn(2, 77, 128, generator=given), "pooled": torch.randn(2, 48, generator=given)}
    extra = model.extra_inputs([Frame.whole(64, 64)] * 2)
    rows = [Row(x, ["a", "b"], multiplier, extra=extra) for multiplier in (1.0, -1.0)]
    draw = Draw(noise, torch.tensor([100, 700]), torch.ones(2))
    autocast = torch.autocast("cpu", enabled=False)
    with built.network.dropping(dropping(network, random, 0)):
        backward(model, built.network, rows, draw, lambda _: states, lambda loss: loss, autocast)
    return {n: p.grad for n, p in built.network.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("kind", [*KINDS, "dora"])
@pytest.mark.parametrize("share", [0.4, 1.0])
def test_gradients_are_the_same_for_both_signs(kind: str, share: float) -> None:
    drops: dict[str, Any] = {} if kind in ("ia3", "norm") else {"rank_dropout": 0.3, "module_dropout": 0.2}
    if kind == "dora":
        kind, drops = "lora", {"dora_wd": True, "module_dropout": 0.2}
    plain, again = _gradients(kind, None, **drops), _gradients(kind, share, **drops)
    assert plain.keys() == again.keys() and any(value.abs().max() > 0 for value in plain.values())
    for name, value in plain.items():
        assert torch.equal(value, again[name]), name


@pytest.mark.parametrize(("share", "expected"), [(1.0, "all"), (0.5, "first"), (0.01, "one")])
def test_the_first_blocks_are_computed_again(share: float, expected: str) -> None:
    """In the order in which they run: down, middle, up; never a block more than was asked for."""
    model = open_tiny("v_prediction")
    model.checkpoint_activations(1.0)
    model.checkpoint_activations(share)
    on = [name for name, module in model.unet.named_modules() if getattr(module, "gradient_checkpointing", False)]
    if expected == "all":
        assert {"down_blocks.0", "mid_block", "up_blocks.1"} <= {*on}
    elif expected == "first":
        assert "down_blocks.0" in on and not [name for name in on if name.startswith("up_blocks")]
    else:
        assert on == ["down_blocks.0"]


def test_a_run_computes_again_the_share_that_it_is_given(shown: list[Shown]) -> None:
    """With the same weights as without, on a base that is stored in fp8 too."""
    network = NetworkOptions(network_dim=4, network_alpha=2.0)
    results = []
    for base in ("full", "fp8"):
        kept, once = _trained(shown, network, base_precision=base)
        again, twice = _trained(
            shown, network, base_precision=base, gradient_checkpointing=True, checkpointing_share=0.3
        )
        assert twice == 2 * once > 0
        assert all(torch.allclose(value, again[name], rtol=1e-5, atol=1e-7) for name, value in kept.items())
        results.append(kept)
    assert any(not torch.equal(value, results[1][name]) for name, value in results[0].items())


def test_a_share_of_the_pictures_is_shown_without_the_tag_too(
    shown: list[Shown], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of batches of two, 0.75 of the pictures: one or two, under the caption without the tag, for the base's own."""
    import lora_train.train.loop as loop

    rows: list[Any] = []
    plain = loop.backward

    def backward(model: Any, network: Any, given: Any, *rest: Any) -> torch.Tensor:
        rows.extend(given)
        return plain(model, network, given, *rest)

    monkeypatch.setattr(loop, "backward", backward)
    _trained(shown, NetworkOptions(network_dim=4, network_alpha=2.0), preserve=0.75)
    preserving = [row for row in rows if row.terms]
    assert {len(row.captions) for row in preserving} == {1, 2}
    assert all("sks" not in caption and "one" in caption for row in preserving for caption in row.captions)
    for row in preserving:
        (term,) = row.terms
        assert (term.factor, row.multiplier) == (1.0, 1.0) and term.captions == row.captions
        assert torch.equal(term.x, row.x) and len(row.x) == len(row.captions)
    assert len(rows) - len(preserving) == 4  # two steps of two micro-batches

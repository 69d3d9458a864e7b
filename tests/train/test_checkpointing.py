"""Activations computed again in the backward pass give the same training; preserving shows what it says."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from lora_train.config import NetworkOptions, RunConfig
from lora_train.train.loop import Callbacks, Trainer
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

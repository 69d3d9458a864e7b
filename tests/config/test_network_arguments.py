"""kohya's `network_args` and the names that people call networks by."""

from __future__ import annotations

import pytest

from lora_train.config import NetworkOptions
from lora_train.config.network import ALGORITHMS, network_problems, with_arguments
from lora_train.errors import LoraTrainError


def test_values_are_read_by_their_types() -> None:
    arguments = [
        *("factor=8", "use_tucker=True", "rank_dropout=0.1", "alpha=4", "block_dims=" + ",".join(["2"] * 25)),
        *("network_rules=attn1: off; ff_net: dim=4 lr=1e-5", "down_lr_weight=sine+.5", "loraplus_lr_ratio=16"),
    ]
    made = with_arguments(NetworkOptions(network_dim=8), "lokr", arguments)
    assert made == NetworkOptions(
        kind="lokr",
        network_dim=8,
        network_alpha=4.0,
        factor=8,
        use_tucker=True,
        rank_dropout=0.1,
        block_dims=(2,) * 25,
        network_rules=("attn1: off", "ff_net: dim=4 lr=1e-5"),
        down_lr_weight="sine+.5",
        loraplus_lr_ratio=16.0,
    )
    assert network_problems(made) == []


@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_name_is_a_network_that_can_be_trained(name: str) -> None:
    assert network_problems(with_arguments(NetworkOptions(), name, [])) == []


def test_locon_has_convolutions_of_its_own_dimension_unless_told() -> None:
    assert with_arguments(NetworkOptions(network_dim=8), "locon", []).conv_dim == 8
    assert with_arguments(NetworkOptions(), "locon", []).conv_dim == 16
    assert with_arguments(NetworkOptions(conv_dim=2), "locon", []).conv_dim == 2
    assert with_arguments(NetworkOptions(), "lora", ["algo=locon", "conv_dim=3"]).conv_dim == 3


def test_all_that_is_wrong_is_told_at_once() -> None:
    with pytest.raises(LoraTrainError) as caught:
        with_arguments(NetworkOptions(), "lora", ["algo=what", "factor=x", "odd=1", "alone"])
    text = str(caught.value)
    assert all(part in text for part in ("'what' is not known", "'x' is no value", "'odd=1'", "'alone'"))
    assert len(caught.value.problems) == 4

"""The network's options at the command line."""

from __future__ import annotations

import pytest

from lora_train.cli import build_parser
from lora_train.cli.train import config_of
from lora_train.config import NetworkOptions, problems
from lora_train.config.arguments import algorithms
from lora_train.config.choices import KINDS
from lora_train.errors import LoraTrainError


def network(line: str) -> NetworkOptions:
    return config_of(build_parser().parse_args(["train", *line.split()]), "", "").network


def test_nothing_given_is_the_default() -> None:
    assert network("") == NetworkOptions()


@pytest.mark.parametrize("algo", algorithms())
def test_every_algorithm_is_a_network_that_can_be_trained(algo: str) -> None:
    config = config_of(build_parser().parse_args(["train", "--algo", algo]), "", "")
    assert not [p for p in problems(config) if p.where.startswith("network")]
    assert config.network.kind == {"locon": "lora", "dora": "lora"}.get(algo, algo)
    assert config.network.dora_wd == (algo == "dora") and bool(config.network.conv_dim) == (algo == "locon")


def test_every_kind_has_its_name() -> None:
    assert set(KINDS) <= set(algorithms())


def test_lycoris_name_of_oft() -> None:
    assert network("--args algo=diag-oft").kind == "oft"


def test_locon_has_convolutions_of_the_same_dimension_unless_told() -> None:
    assert network("--algo locon --dim 8").conv_dim == 8
    assert network("--algo locon --dim 8 --conv-dim 4").conv_dim == 4
    assert network("--algo locon --args conv_dim=2").conv_dim == 2


def test_arguments_of_every_type() -> None:
    found = network(
        "--algo lokr --args factor=8 full_matrix=True rs_lora=1 rank_dropout=0.1 block_dims=1,2,3 block_alphas=0.5,1"
        " down_lr_weight=sine+.5 loraplus_lr_ratio=16 scale_weight_norms=none use_cp=true dropout=0.2"
        " alpha=4 base_weights=a.safetensors;b,c.safetensors network_rules=attn{1,2}:off --args algo=dora"
    )
    assert found == NetworkOptions(
        kind="lokr",
        dora_wd=True,
        factor=8,
        full_matrix=True,
        rs_lora=True,
        rank_dropout=0.1,
        block_dims=(1, 2, 3),
        block_alphas=(0.5, 1.0),
        down_lr_weight="sine+.5",
        loraplus_lr_ratio=16.0,
        use_tucker=True,
        network_dropout=0.2,
        network_alpha=4.0,
        base_weights=("a.safetensors", "b,c.safetensors"),
        network_rules=("attn{1,2}:off",),
    )


def test_flags() -> None:
    line = "--continue x.safetensors --merge-base a.safetensors:0.5 --merge-base C:\\b.safetensors --unet-only"
    found = network(line + " --max-norm 1 --dropout 0.1 --rule attn1:off")
    assert (found.network_weights, found.scale_weight_norms, found.network_dropout) == ("x.safetensors", 1.0, 0.1)
    assert found.base_weights == ("a.safetensors", "C:\\b.safetensors")
    assert found.base_weights_multiplier == (0.5, 1.0)
    assert found.network_train_unet_only and found.network_rules == ("attn1:off",)
    train = config_of(build_parser().parse_args(["train", "--stop-text", "50"]), "", "").train
    assert train.stop_text_encoder_training == 50


def test_all_arguments_that_are_not_understood_are_told() -> None:
    with pytest.raises(LoraTrainError) as caught:
        network("--args preset=full factor=x rescaled=maybe rank_dropout block_dims=1,a factor=4")
    told = [problem.what.split(":")[0] for problem in caught.value.problems]
    assert told == ["'preset=full'", "'factor=x'", "'rescaled=maybe'", "'rank_dropout'", "'block_dims=1,a'"]

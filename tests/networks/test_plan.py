"""Which module gets what: blocks and rates against sd-scripts' numbers, rules by name."""

from __future__ import annotations

import math
from dataclasses import fields, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lora_train import patterns
from lora_train.config import NetworkOptions
from lora_train.config.network import (
    RULE_VALUES,
    block_weights,
    network_arguments,
    network_module,
    network_problems,
    parse_rule,
)
from lora_train.errors import LoraTrainError
from lora_train.networks.base import Form
from lora_train.networks.blocks import block_of, layout_of
from lora_train.networks.plan import Part, plan_of, rates_of
from lora_train.networks.registry import new_network
from lora_train.records.families import FAMILIES

# module names and the block that sd-scripts' get_block_index gives them (networks/lora.py, February 2026)
BLOCKS = {
    "lora_unet_down_blocks_0_resnets_0_conv1": 1,
    "lora_unet_down_blocks_0_attentions_1_proj_in": 2,
    "lora_unet_down_blocks_0_downsamplers_0_conv": 3,
    "lora_unet_down_blocks_3_resnets_1_conv2": 11,
    "lora_unet_mid_block_attentions_0_proj_in": 12,
    "lora_unet_up_blocks_0_resnets_0_conv1": 13,
    "lora_unet_up_blocks_1_upsamplers_0_conv": 18,
    "lora_unet_up_blocks_3_attentions_2_transformer_blocks_0_attn1_to_q": 24,
    "lora_te_text_model_encoder_layers_0_mlp_fc1": None,
    "lora_unet_time_embedding_linear_1": None,
    "lora_unet_input_blocks_1_0_in_layers_2": 2,
    "lora_unet_input_blocks_8_1_proj_in": 9,
    "lora_unet_middle_block_1_proj_in": 11,
    "lora_unet_output_blocks_0_1_proj_in": 13,
    "lora_unet_output_blocks_8_0_out_layers_3": 21,
    "lora_te1_text_model_encoder_layers_0_mlp_fc1": None,
}
OPTIONS = NetworkOptions(network_dim=8, network_alpha=4.0)
SD, XL = (FAMILIES[name].blocks for name in ("sd1", "sdxl"))
BASES: dict[str, nn.Module] = {
    "lora_unet_down_blocks_0_attentions_0_proj_in": nn.Conv2d(8, 8, 1),
    "lora_unet_down_blocks_0_resnets_0_conv1": nn.Conv2d(8, 8, 3),
    "lora_unet_down_blocks_0_resnets_0_norm1": nn.GroupNorm(2, 8),
    "lora_unet_mid_block_attentions_0_proj_in": nn.Linear(8, 8),
    "lora_unet_up_blocks_3_attentions_0_proj_in": nn.Linear(8, 8),
    "lora_te_text_model_encoder_layers_0_mlp_fc1": nn.Linear(8, 8),
}
FIRST, CONV, NORM, MID, LAST, TEXT = BASES
USUAL = frozenset({FIRST, MID, LAST, TEXT})


def plan(**options: object) -> dict[str, Part]:
    return plan_of(replace(OPTIONS, **options), BASES, USUAL, ("lora_unet", "lora_te"))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", BLOCKS)
def test_blocks_are_kohyas(name: str) -> None:
    assert block_of(name) == BLOCKS[name]


def test_layouts() -> None:
    assert SD is not None and XL is not None and (SD.total, XL.total) == (25, 23)
    assert layout_of(name for name in BLOCKS if "down_blocks" in name) == SD
    assert layout_of(name for name in BLOCKS if "input_blocks" in name) == XL


def test_by_default_the_usual_modules_get_the_same() -> None:
    found = plan()
    assert set(found) == USUAL
    assert {(part.kind, part.form.rank, part.form.alpha, part.rate.factor) for part in found.values()} == {
        ("lora", 8, 4.0, 1.0)
    }


def test_convolutions_and_norms() -> None:
    found = plan(conv_dim=2, conv_alpha=1.0, train_norm=True, kind="lokr", factor=4)
    assert (found[CONV].form.rank, found[CONV].form.alpha, found[CONV].form.factor) == (2, 1.0, 4)
    assert found[NORM].kind == "norm" and found[FIRST].form.rank == 8
    assert set(plan(kind="norm")) == {NORM}


def test_dimensions_by_block() -> None:
    dims = tuple(range(25))
    found = plan(block_dims=dims, block_alphas=tuple(d / 2 for d in dims), conv_block_dims=(3,) * 25)
    assert [found[name].form.rank for name in (FIRST, MID, LAST, CONV, TEXT)] == [1, 12, 22, 3, 8]
    assert found[LAST].form.alpha == 11.0 and found[TEXT].form.alpha == 4.0 and found[CONV].form.alpha == 1.5
    assert FIRST not in plan(block_dims=(0,) * 12 + (4,) * 13)
    with pytest.raises(LoraTrainError, match="has 23 values; this base model has 25 blocks"):
        plan(block_dims=(4,) * 23)


def test_rates_by_block() -> None:
    found = plan(down_lr_weight="0.5,0.25", mid_lr_weight="2", up_lr_weight="zeros")
    assert found[MID].rate.factor == 2 and found[FIRST].rate.factor == 0.25 and LAST not in found
    assert found[TEXT].rate.factor == 1 and found[MID].rate.label == " block 12"
    with pytest.raises(LoraTrainError, match="has 12 values; this base model has 9 such blocks"):
        names = ["lora_unet_input_blocks_1_0_in_layers_2"]
        rates_of(replace(OPTIONS, down_lr_weight=",".join(["1"] * 12)), names)


@pytest.mark.parametrize(
    ("text", "formula"),
    [
        ("sine", lambda i: math.sin(math.pi * (i / 11) / 2)),
        ("cosine+.25", lambda i: math.sin(math.pi * ((11 - i) / 11) / 2) + 0.25),
        ("linear", lambda i: i / 11),
        ("reverse_linear", lambda i: (11 - i) / 11),
        ("zeros+.1", lambda i: 0.1),
        ("1,0,,0.5", lambda i: [1, 0, 0, 0.5][i] if i < 4 else 1),
    ],
)
def test_curves_are_kohyas(text: str, formula: object) -> None:
    options = replace(OPTIONS, up_lr_weight=text)
    found = block_weights(options, 12, 1)
    assert found[:13] == [1.0] * 13
    assert found[13:] == pytest.approx([formula(i) for i in range(12)])  # type: ignore[operator]
    above = replace(options, block_lr_zero_threshold=0.3)
    assert block_weights(above, 12, 1) == pytest.approx([w if w > 0.3 else 0 for w in found])


def test_rules_by_name() -> None:
    rules = ("te_.*mlp: off", "down_.*proj_in: dim=2 lr=1e-5 kind=loha", "proj_in: dim=16", "conv1: dim=4 alpha=4")
    found = plan(network_rules=rules)
    assert set(found) == {FIRST, CONV, MID, LAST}
    assert (found[FIRST].kind, found[FIRST].form.rank, found[FIRST].rate.lr) == ("loha", 2, 1e-5)
    assert found[MID].form.rank == 16 and found[MID].form.alpha == 8  # the scale stays
    assert (found[CONV].form.rank, found[CONV].form.alpha) == (4, 4.0)
    decomposed = plan(dora_wd=True, network_rules=("mid: kind=oft",))
    assert not decomposed[MID].form.dora_wd and decomposed[FIRST].form.dora_wd


def test_a_rule_counts_only_for_what_its_kind_can_change() -> None:
    """A norm network on a Linear would be written, and then fit nothing."""
    assert {name: part.kind for name, part in plan(network_rules=(".: kind=norm",)).items()} == {
        name: "norm" if name == NORM else "lora" for name in (FIRST, MID, LAST, TEXT, NORM)
    }
    assert NORM not in plan(network_rules=("down: dim=2",)) and NORM not in plan(network_rules=(".: kind=lokr",))
    beside = plan(train_norm=True, network_rules=(".: kind=lokr", "norm: lr=1e-5"))
    assert (beside[NORM].kind, beside[NORM].rate.lr, beside[CONV].kind) == ("norm", 1e-5, "lokr")


def test_a_rule_that_is_found_nowhere_is_told() -> None:
    with pytest.raises(LoraTrainError, match=r"has 'dwon' or 'input_blocks' in its name"):
        plan(network_rules=("dwon: off", "mid: dim=2", "input_blocks: dim=2"))


def test_a_rule_whose_pattern_never_ends_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patterns, "SECONDS", 0.5)
    with pytest.raises(LoraTrainError, match=r"network_rules: the pattern '\(\[a-z_\]\+\)\+!' takes too long") as told:
        plan(network_rules=("down: dim=2", "([a-z_]+)+!: dim=4"))
    assert told.value.problems[0].fix


def test_rules_that_make_dora_count_as_dora() -> None:
    """Neither can be done to it; the first was a NotImplementedError, the second did nothing."""
    options = replace(OPTIONS, scale_weight_norms=1.0, network_dropout=0.1, network_rules=("attn2: dora_wd=true",))
    assert {p.where for p in network_problems(options)} == {"network.scale_weight_norms", "network.network_dropout"}


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("attn", "it must be PATTERN"),
        ("(: dim=4", "not a valid regular expression"),
        ("a: dim=x", "'x' is not a value for dim"),
        ("a: dimm=4", "'dimm' is not known"),
        ("a: kind=lorax", "'lorax' is not known"),
        ("a: use_tucker=maybe", "'maybe' is not a value"),
        ("a: dim=-1", "dim=-1 is out of range"),
        ("a: dim=5000", "dim=5000 is out of range"),
        ("a: alpha=nan", "alpha=nan is out of range"),
        ("a: lr=inf", "lr=inf is out of range"),
        ("a: constraint=-1", "constraint=-1.0 is out of range"),
        ("a: factor=0", "factor must be -1 or more"),
    ],
)
def test_rules_that_cannot_be_read(rule: str, message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        parse_rule(rule)


def test_the_values_of_rules_are_those_of_the_table() -> None:
    """By its range, its choices and its type; each is part of a module's form, or its rate."""
    names = "lr kind dim alpha dora_wd use_tucker factor decompose_both full_matrix constraint rescaled train_on_input"
    assert [*RULE_VALUES] == names.split()
    forms = {field.name for field in fields(Form)} | {"dim", "kind", "lr"}
    assert {*RULE_VALUES} <= forms
    rule = parse_rule("a: dim=0 constraint=1000 use_tucker kind=loha lr=10")
    assert rule.values == {"dim": 0, "constraint": 1000.0, "use_tucker": True, "kind": "loha", "lr": 10.0}
    for text in ("constraint=1001", "lr=10.5", "dim=", "dim=none", "alpha=70000"):
        with pytest.raises(ValueError, match="out of range|not a value"):
            parse_rule(f"a: {text}")


@settings(deadline=None, max_examples=30)  # most patterns are read in a process of their own
@given(st.text(max_size=60))
def test_any_text_is_a_rule_or_is_refused(text: str) -> None:
    try:
        parse_rule(text)
    except ValueError as error:
        assert str(error)


def test_what_does_not_go_together_is_told_at_once() -> None:
    options = NetworkOptions(
        kind="oft",
        dora_wd=True,
        network_dropout=0.1,
        scale_weight_norms=1.0,
        init_lora_weights="pissa",
        network_weights="x.safetensors",
        base_weights_multiplier=(math.nan,),
        network_rules=("a",),
        block_dims=(4, 4),
        block_alphas=(-1.0,) * 25,
        down_lr_weight="wave",
        conv_block_alphas=(1.0,) * 25,
        factor=0,
    )
    where = [problem.where.removeprefix("network.") for problem in network_problems(options)]
    assert set(where) == {
        "dora_wd", "network_dropout", "scale_weight_norms", "init_lora_weights", "network_weights",
        "base_weights_multiplier", "network_rules", "block_dims", "block_alphas", "down_lr_weight",
        "conv_block_alphas", "factor",
    }  # fmt: skip
    assert network_problems(OPTIONS) == []


def test_an_option_of_another_kind_is_told() -> None:
    (problem,) = network_problems(NetworkOptions(factor=8))
    assert (problem.where, problem.what) == ("network.factor", "means nothing for lora.")
    assert len(network_problems(NetworkOptions(kind="loha", train_on_input=True, rescaled=True))) == 2
    assert network_problems(NetworkOptions(factor=8, network_rules=("attn1: kind=lokr",))) == []
    assert network_problems(NetworkOptions(kind="boft", constraint=0.1, rescaled=True)) == []


def test_arguments_are_what_kohya_would_have_been_given() -> None:
    assert (network_module(OPTIONS), network_arguments(OPTIONS)) == ("networks.lora", {})
    assert network_module(replace(OPTIONS, network_rules=("attn1: dim=4",))) == "networks.lora"
    assert network_module(replace(OPTIONS, network_rules=("attn1: kind=loha",))) == "lycoris.kohya"
    locon = replace(OPTIONS, conv_dim=4, conv_alpha=1.0, rank_dropout=0.1, loraplus_lr_ratio=16.0)
    assert network_module(locon) == "networks.lora"
    told = {"conv_dim": "4", "conv_alpha": "1", "rank_dropout": "0.1", "loraplus_lr_ratio": "16"}
    assert network_arguments(locon) == told
    dora = replace(OPTIONS, kind="lokr", factor=8, dora_wd=True)
    assert network_module(dora) == "lycoris.kohya"
    told = {"algo": "lokr", "factor": "8", "dora_wd": "True", "wd_on_output": "False"}
    assert network_arguments(dora) == told
    assert network_arguments(replace(OPTIONS, kind="oft"))["algo"] == "diag-oft"
    assert network_arguments(replace(OPTIONS, block_dims=(2,) * 3))["block_dims"] == "2,2,2"


def test_the_named_algorithms_are_lycoris() -> None:
    pytest.importorskip("lycoris")
    from lycoris.wrapper import network_module_dict

    for kind in ("lora", "loha", "lokr", "oft", "boft", "ia3", "glora", "full"):
        assert network_arguments(replace(OPTIONS, kind=kind, use_tucker=True))["algo"] in network_module_dict


def test_a_rank_that_does_not_fit_is_named() -> None:
    with pytest.raises(ValueError, match="320 channels cannot be split for BOFT with dimension 4; use at least 10"):
        new_network("boft", nn.Linear(8, 320), Form(4, 1.0), torch.Generator())
    with pytest.raises(ValueError, match="rank 16 is more than the weight's own 8"):
        new_network("lora", nn.Linear(8, 320), Form(16, 1.0, init_lora_weights="olora"), torch.Generator())

"""The records of kinds and families: whole, true, and the only place that says these things."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from lora_train.config import Facts, NetworkOptions, RunConfig, resolve
from lora_train.config.extending import registered_for
from lora_train.config.table import in_section, options
from lora_train.lorafile.families import family_of
from lora_train.lorafile.names import component_of, components_of, path_of
from lora_train.lorafile.understanding import understand
from lora_train.networks.base import Form
from lora_train.networks.blocks import block_of, layout_of
from lora_train.networks.registry import kind_of, network_kind, new_network
from lora_train.records.families import (
    FAMILIES,
    families_with,
    is_text,
    least_factor,
    of_version,
    shared_prefix,
    side_of,
    titles,
)
from lora_train.records.family import FEATURES, Side, numbered
from lora_train.records.kinds import KINDS, kind_within, kinds_with, numbers
from lora_train.records.table import Records, load
from tests.networks.samples import CASES, base_of, network_for


@pytest.mark.parametrize("name", CASES)
def test_a_kinds_record_says_what_its_files_have(name: str) -> None:
    case = CASES[name]
    tensors = network_for(case, base_of("conv3x3")).file_tensors()
    record = KINDS[case.kind]
    its = record.its(tensors)
    assert tensors.keys() - its.keys() <= {"dora_scale"} and record.recognises(its) and kind_of(tensors) is record
    assert kind_within(tensors | {"of_nobody": torch.ones(1)}) is record
    rank = next((its[part].shape[at] for part, at in record.rank_of if part in its), None)
    assert rank in (None, case.form.rank)
    assert {part for part in its if its[part].numel() == 1 and its[part].ndim == 0} <= numbers()
    if record.inputs is not None:
        assert record.inputs(lambda part, at=1: its[part].shape[at] if part in its else 0) in (24, 24 * 9, 9 * 24)


@pytest.mark.parametrize("name", KINDS)
def test_a_kinds_record_is_true(name: str) -> None:
    kind = KINDS[name]
    assert kind.help and not kind.help.endswith(".")
    made = network_kind(name)
    base: Any = nn.Linear(8, 8) if nn.Linear in made.bases else nn.LayerNorm(8)
    network = new_network(name, base, Form(2, 2.0), torch.Generator().manual_seed(0))
    if kind.scalable:
        network.shrink(0.5)
    else:
        with pytest.raises(NotImplementedError):
            network.shrink(0.5)
    known = {option.name for option in in_section("network")}
    assert {*kind.options} <= known
    for option in kind.options:
        assert name in kinds_with(option)


def test_options_name_their_kinds_by_the_records() -> None:
    restricted = {option.name for option in in_section("network") if len(option.about.kinds)}
    named = {option for kind in KINDS.values() for option in kind.options}
    assert named <= restricted
    assert restricted - named == {"scale_weight_norms"}  # by `scalable`
    assert NetworkOptions().kind in KINDS


def test_families_are_whole() -> None:
    for family in FAMILIES.values():
        assert load(family.opening) and family.features <= {*FEATURES} and family.predictions
        assert re.match(family.said, family.predictions[0].version) or not family.said
        for side in family.sides:
            assert side_of(f"{side.prefix}_x") is not None
            assert is_text(f"{side.prefix}_x") == (side is not family.denoiser)
        assert {option.about.needs for option in options()} <= {"", *FEATURES}
    assert titles() == "SD 1.x, SD 2.x and SDXL" and least_factor() == 8
    assert [*families_with("two encoders")] == ["sdxl"]


@pytest.mark.parametrize(
    ("version", "name"),
    [("sd_v1", "sd1"), ("sd_v1_v", "sd1"), ("sd_v2_v", "sd2"), ("sdxl_base_v1-0", "sdxl"), ("flux1", None)],
)
def test_a_version_names_its_family(version: str, name: str | None) -> None:
    found = of_version(version)
    assert (None if found is None else found.name) == name


def test_prefixes_that_begin_alike() -> None:
    found = {name: getattr(side_of(name), "prefix", None) for name in ("lora_te_a", "lora_te2_a", "lora_unet", "x_a")}
    assert found == {"lora_te_a": "lora_te", "lora_te2_a": "lora_te2", "lora_unet": None, "x_a": None}
    assert (shared_prefix("text_encoder"), shared_prefix("text_encoder_2")) == ("lora_te", "lora_te2")


def test_blocks_of_lists() -> None:
    blocks = numbered("lora_unet", {"double_blocks": 19, "single_blocks": 38})
    names = ("lora_unet_double_blocks_18_x", "lora_unet_single_blocks_0", "lora_unet_in", "lora_te_double_blocks_1_x")
    assert [blocks.number(name) for name in names] == [18, 19, None, None] and blocks.total == 57


def test_a_table_can_be_added_to_and_its_names_follow() -> None:
    table = Records("thing", [KINDS["lora"]])
    names, short = table.names(), table.names(lambda one: len(one.name) < 4)
    assert [*names] == ["lora"] and len(short) == 0 and not short
    table.register(KINDS["oft"])
    assert [*names] == ["lora", "oft"] and names[0] == "lora" and "oft" in short and repr(short) == "('oft',)"
    with pytest.raises(ValueError, match="a thing called 'oft'"):
        table.register(KINDS["oft"])
    table.unregister(KINDS["boft"])
    table.unregister(KINDS["oft"])
    assert "oft" not in names


def test_two_families_may_have_one_prefix_for_parts_of_other_names() -> None:
    sd = FAMILIES["sd1"]
    words = frozenset(("double_blocks", "img"))
    other = replace(
        sd,
        name="other",
        title="Other",
        denoiser=Side("lora_unet", "transformer", "transformer", words=words),
        texts=(),
        owns=lambda names: any("double_blocks" in name for name in names),
        blocks=numbered("lora_unet", {"double_blocks": 2}),
    )
    name, usual = "lora_unet_double_blocks_1_img", "lora_unet_down_blocks_0_attentions_0_proj_in"
    down, up = torch.ones(2, 8), torch.ones(8, 2)
    tensors = {
        "transformer.double_blocks.1.img.lora_A.weight": down,
        "transformer.double_blocks.1.img.lora_B.weight": up,
    }
    with registered_for((FAMILIES, other)):
        assert (block_of(name), block_of(usual)) == (1, 1) and layout_of([name]) is other.blocks
        assert [*understand(tensors, {}).modules] == [name] and path_of(name) == "double_blocks.1.img"
        assert (component_of(name, other), component_of(usual, sd)) == ("transformer", "unet")
        assert components_of(name) == ["unet", "unet", "unet", "transformer"]
        assert family_of({name: {}}, {}) == "Other" and family_of({usual: {}}, {}) == "SD 1.x or 2.x"


def test_a_base_without_text_encoders_to_train() -> None:
    facts = Facts(pictures=4, native_resolution=512, device="cpu", fast_bf16=False, text_encoders=0)
    config, choices = resolve(RunConfig(), facts)
    assert config.network.network_train_unet_only
    assert [one.field for one in choices].count("network.network_train_unet_only") == 1
    assert not resolve(RunConfig(), replace(facts, text_encoders=1))[0].network.network_train_unet_only

"""The table of options: complete, without doubles, and the only place that says what an option is."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import fields

import pytest

from lora_train.config import NetworkOptions, RunConfig, problems
from lora_train.config.choices import KINDS, PREPARE_OPERATIONS
from lora_train.config.option import COMMAS, GROUPS, LEVELS, REPEATED, SHELL, WORDS
from lora_train.config.registered import own_names
from lora_train.config.table import CHOICES, RANGES, Option, find, in_section, options
from lora_train.config.values import describe, fit, item_type, parse
from lora_train.records.families import FAMILIES
from lora_train.records.family import FEATURES


def test_every_field_is_an_option() -> None:
    declared = [
        f"{part.name}.{name}" for part in fields(RunConfig) for name in own_names(type(getattr(RunConfig(), part.name)))
    ]
    assert [option.path for option in options()] == declared
    assert [option.name for option in in_section("network")] == [*own_names(NetworkOptions)]
    assert {"more", *own_names(NetworkOptions)} == {one.name for one in fields(NetworkOptions)}
    for option in options():
        assert option is find(option.path) and option.of(RunConfig()) == option.default


@pytest.mark.parametrize("option", options(), ids=lambda option: option.path)
def test_each_is_described(option: Option) -> None:
    about = option.about
    assert about.label and about.label == about.label.strip() and not about.label.endswith(".")
    assert about.help and "\n" not in about.help and not about.help.endswith(".")
    assert about.group in GROUPS and about.level in LEVELS
    assert bool(option.flags) != bool(about.through), "a flag of its own, or the one that sets it"
    assert set(about.kinds) <= set(KINDS) and set(about.operations) <= set(PREPARE_OPERATIONS)
    assert set(about.families) <= set(FAMILIES) and about.needs in ("", *FEATURES)
    assert about.written in ("", COMMAS, REPEATED, SHELL, WORDS)
    assert not about.written or item_type(option.hint) is str
    assert fit(option.hint, option.default)[0], describe(option.hint)
    if option.default is None:
        assert about.unset, "where nothing is given, what happens is said"


def test_defaults_are_in_their_ranges_and_choices() -> None:
    tables = set(RANGES) | set(CHOICES)
    assert not [one for one in problems(RunConfig()) if one.where in tables and "name" not in one.where]


def test_every_range_counts_at_both_ends() -> None:
    for path, (low, high) in RANGES.items():
        section, name = path.split(".")
        whole = "int" in str(find(path).hint)
        for value, good in ((low, True), (high, True), (low - 1, False), (high + 1, False)):
            config = RunConfig.from_dict({section: {name: int(value) if whole else float(value)}})
            assert [one for one in problems(config) if one.where == path and "range" in one.what] == [] or not good, (
                path
            )
            assert good or any(one.where == path for one in problems(config)), f"{path}={value}"


def test_no_flag_label_or_name_stands_twice() -> None:
    for words in (
        [flag for option in options() for flag in option.flags],
        [option.about.label for option in options()],
        [name for option in options() for name in option.about.kohya],
        [option.about.metadata for option in options() if option.about.metadata],
    ):
        assert not [word for word, count in Counter(words).items() if count > 1]


def test_flags_and_names_are_spelt_as_such() -> None:
    for option in options():
        assert all(re.fullmatch(r"--[a-z0-9-]+", flag) for flag in option.flags)
        assert all(re.fullmatch(r"[a-z0-9_]+", name) for name in option.about.kohya)
        assert re.fullmatch(r"(ss_[a-z0-9_]+)?", option.about.metadata)


@pytest.mark.parametrize(
    ("path", "text", "value"),
    [
        ("train.max_train_steps", "7", 7),
        ("train.max_train_steps", "none", None),
        ("train.learning_rate", "1e-3", 1e-3),
        ("data.flip_aug", "True", True),
        ("network.block_dims", "1, 2", (1, 2)),
        ("network.network_rules", "a{1,2}:off; b:off", ("a{1,2}:off", "b:off")),
    ],
)
def test_texts_are_read_by_the_type_of_the_option(path: str, text: str, value: object) -> None:
    assert parse(find(path).hint, text) == value
    with pytest.raises(ValueError):
        parse(find("train.seed").hint, "x")

"""Every option is reachable at the command line, and no flag of an earlier version is lost."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lora_train.cli import build_parser
from lora_train.cli.training import config_of
from lora_train.config import PrepareOptions, PreviewOptions, RunConfig
from lora_train.config.option import COMMAS, GROUPS, REPEATED, SHELL
from lora_train.config.table import Option, options
from lora_train.config.values import item_type, plain_type

GOLDEN = Path(__file__).parent / "golden"


def of_command(name: str, *needed: str) -> Any:
    return build_parser().parse([name, *needed])[0].parser


@pytest.mark.parametrize("command", ["train", "prepare"])
def test_every_flag_that_there_ever_was_is_taken_with_as_many_values(command: str) -> None:
    known = of_command(command, *(["--input", "x"] if command == "prepare" else []))._option_string_actions
    for line in (GOLDEN / f"{command}-flags.txt").read_text(encoding="utf-8").splitlines():
        flag, values = line.split()
        assert flag in known, flag
        assert str(1 if known[flag].nargs is None else known[flag].nargs) == values, flag


def other(option: Option) -> tuple[str, Any]:
    """A value that is not the default, as it is written and as it is meant."""
    hint = plain_type(option.hint)
    if hint is bool:
        return "", option.default is False or option.default is None
    if option.about.choices:
        last = [one for one in option.about.choices if one != option.default][-1:] or [option.default]
        return last[0], (last[0],) if item_type(hint) else last[0]
    if item := item_type(hint):
        if item is not str:
            return "1,2", (item(1), item(2))
        text = {COMMAS: "a, b", SHELL: "'a b' {picture}", REPEATED: "attn: off"}[option.about.written]
        return text, {COMMAS: ("a", "b"), SHELL: ("a b", "{picture}"), REPEATED: (text,)}[option.about.written]
    if hint is str:
        return "some text", "some text"
    low, high = option.about.range or (2, 99)
    value = hint(min(high, low + (high - low) / 2))
    return str(value), value


@pytest.mark.parametrize("option", options(), ids=lambda option: option.path)
def test_every_option_has_a_flag_that_sets_it_and_nothing_else(option: Option) -> None:
    if option.about.through:
        line = [option.about.through, "a.safetensors:0.5"]
        assert option.of(config_of(build_parser().parse_args(["train", *line]), "", "")) == (0.5,)
        return
    text, meant = other(option)
    for flag in option.flags:
        if plain_type(option.hint) is bool and not meant:
            flag = f"--no-{flag[2:]}"
        line = ["train", flag, *([text] if plain_type(option.hint) is not bool else [])]
        found = config_of(build_parser().parse_args(line), "", "")
        assert option.of(found) == meant
        changed = replace(getattr(RunConfig(), option.section), **{option.name: meant})
        expected = replace(RunConfig(), **{option.section: changed})
        if option.path == "network.base_weights":
            expected = replace(expected, network=replace(expected.network, base_weights_multiplier=(1.0,)))
        assert found == expected


def test_the_help_has_the_groups_of_the_table_and_what_happens_without_a_flag() -> None:
    text = " ".join(of_command("train").format_help().split())
    assert [name for name in GROUPS if f" {name}:" not in text] == []
    for said in ("(default: 16)", "(default: cosine)", "(default: by the number of pictures)", "5 % of the steps"):
        assert said in text
    preparing = " ".join(of_command("prepare", "--input", "x").format_help().split())
    assert "(default: original,blur,range,similar,resize)" in preparing
    for option in options():
        if option.section == "prepare":
            assert option.flags[0] in preparing


def test_what_is_not_given_stays_as_the_options_say() -> None:
    found = config_of(build_parser().parse_args(["train", "--preview-steps", "7"]), "", "")
    assert found.preview == PreviewOptions(steps=7) and found.prepare == PrepareOptions()


def test_an_unreadable_command_is_a_problem_of_its_flag() -> None:
    found = build_parser().parse(["train", "--tagger-command", "say 'x"])[1]
    assert [one.where for one in found] == ["--tagger-command"] and "quotes" in str(found[0])

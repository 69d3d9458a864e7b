"""Every option is reachable at the command line, and no flag of an earlier version is lost."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lora_train.cli import build_parser, main
from lora_train.cli.train import config_of
from lora_train.config import PrepareOptions, PreviewOptions, RunConfig
from lora_train.config.files import read_options
from lora_train.config.option import COMMAS, GROUPS, REPEATED, SHELL, WORDS
from lora_train.config.table import Option, options
from lora_train.config.values import item_type, plain_type
from lora_train.errors import LoraTrainError

GOLDEN = Path(__file__).parents[1] / "golden"


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
        texts = {COMMAS: "a, b", SHELL: "'a b' {picture}", REPEATED: "attn: off", WORDS: "betas=0.9,0.99"}
        text = texts[option.about.written]
        parts = {COMMAS: ("a", "b"), SHELL: ("a b", "{picture}")}
        return text, parts.get(option.about.written, (text,))
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


def made(*line: str) -> RunConfig:
    return config_of(build_parser().parse_args(["train", *line]), "the host's", "its folder")


def test_flags_win_over_the_file_and_set_wins_over_flags(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(
        '{"model": {"path": "m.ckpt"}, "train": {"seed": 1, "learning_rate": 0.1, "lr_warmup_steps": 2},'
        ' "network": {"kind": "loha", "network_dim": 4}, "data": {"flip_aug": true}, "prepare": {"target": 640}}',
        encoding="utf-8",
    )
    config = ("--config", str(path))
    found = made(*config)
    assert (found.model.path, found.save.output_dir) == ("m.ckpt", "its folder")
    assert (found.train.seed, found.network.kind, found.data.flip_aug, found.prepare.target) == (1, "loha", True, 640)
    found = made(
        "--lr", "0.5", *config, "--seed", "42", "--algo", "lora", "--set", "train.learning_rate=0.7", "data.tag=x"
    )
    assert (found.train.seed, found.train.learning_rate, found.train.lr_warmup_steps) == (42, 0.7, 2)
    assert (found.network.kind, found.network.network_dim, found.data.tag) == ("lora", 4, "x")
    assert made(*config, "--dim", "8").network == replace(made(*config).network, network_dim=8)
    assert made(*config, "--model", "n.ckpt").model.path == "n.ckpt"


def test_what_is_wrong_in_file_arguments_and_settings_comes_together(tmp_path: Path) -> None:
    line = ["--config", str(tmp_path / "none.json"), "--args", "factor=x", "--set", "a=1"]
    with pytest.raises(LoraTrainError) as caught:
        made(*line)
    assert [one.where for one in caught.value.problems] == [line[1], "--args", "--set"]


def test_options_are_saved_as_they_were_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "kept.json"
    line = ["train", "--input", str(tmp_path), "--output", "a", "--model", str(tmp_path / "no.ckpt"), "--seed", "5"]
    assert main([*line, "--save-config", str(path)]) == 2  # there are no pictures; what was asked for is sound
    assert f"Options   {path}" in capsys.readouterr().out
    asked = read_options(path)[0]
    assert (asked.train.seed, asked.train.max_train_steps, asked.save.output_dir) == (5, None, "")
    assert made("--config", str(path)) == replace(asked, save=replace(asked.save, output_dir="its folder"))
    before = path.read_bytes()
    assert main([*line[:-1], "6", "--save-config", str(path)]) == 2 and path.read_bytes() == before
    assert "there is already such a file" in capsys.readouterr().err
    assert main([*line[:-1], "-6", "--save-config", str(tmp_path / "b.json")]) == 2
    assert not (tmp_path / "b.json").exists(), "nothing is written where the options are wrong"


def test_what_is_not_understood_hides_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--set", "train.sed=1", "--lr", "11", "--args", "factor=x", "--output", "a"]) == 2
    told = capsys.readouterr().err.splitlines()
    assert [line.split(": ")[1] for line in told] == ["--args", "--set", "--input", "--lr"]


def test_what_came_of_another_programs_file_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "preset.json"
    preset = '{"LoRA_type": "LyCORIS/LoHa", "network_dim": 4, "color_aug": true, "sdxl": true}'
    path.write_text(preset, encoding="utf-8")
    assert main(["train", "--config", str(path), "--dim", "8", "--input", str(tmp_path / "no"), "--name", "a"]) == 2
    said = capsys.readouterr().err
    assert f"note: {path}: taken: network_dim as network.network_dim = 4" in said
    assert "differs: sdxl" in said and "not honoured: color_aug" in said
    found = made("--config", str(path), "--dim", "8").network
    assert (found.kind, found.network_dim) == ("loha", 8)

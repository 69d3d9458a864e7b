"""Every option is reachable at the command line, and no flag of an earlier version is lost."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lora_train.cli import build_parser, main
from lora_train.cli.from_files import section_asked
from lora_train.cli.prepare import ON as PREPARED
from lora_train.cli.prepare import asked_of as prepare_asked
from lora_train.cli.train import config_of
from lora_train.config import PrepareOptions, PreviewOptions, RunConfig
from lora_train.config.files import read_options, read_sections
from lora_train.config.option import COMMAS, GROUPS, REPEATED, SHELL, WORDS
from lora_train.config.sections.generate import GenerateOptions
from lora_train.config.table import Option, in_section, options
from lora_train.config.values import item_type, plain_type
from lora_train.errors import LoraTrainError
from lora_train.jsons import to_json

GOLDEN = Path(__file__).parents[1] / "golden"


def of_command(name: str, *needed: str) -> Any:
    return build_parser().parse([name, *needed])[0].parser


def commands_below(name: str) -> dict[str, Any]:
    """The parsers of a command's own commands."""
    return {
        one.prog.rpartition(" ")[2]: one
        for top in build_parser()._commands()
        if top.prog.endswith(name)
        for one in top._commands()
    }


@pytest.mark.parametrize("command", ["train", "prepare", "generate"])
def test_every_flag_that_there_ever_was_is_taken_with_as_many_values(command: str) -> None:
    needed = {"prepare": ["--input", "x"], "generate": ["a prompt"]}
    known = of_command(command, *needed.get(command, []))._option_string_actions
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


def test_every_change_to_captions_takes_what_it_always_took() -> None:
    edits = commands_below("captions")
    for line in (GOLDEN / "captions-flags.txt").read_text(encoding="utf-8").splitlines():
        name, *arguments = line.split()
        actions = edits[name]._actions
        places = [action.dest for action in actions if not action.option_strings]
        assert [one for one in arguments if not one.startswith("-")] == places
        assert {one for one in arguments if one.startswith("-")} <= {*edits[name]._option_string_actions}


@pytest.mark.parametrize("option", in_section("generate"), ids=lambda option: option.path)
def test_every_option_of_generate_has_a_flag_and_a_setting(option: Option, tmp_path: Path) -> None:
    text, meant = other(option)
    shown = "true" if plain_type(option.hint) is bool else text
    place, flag = option.flags[0] == option.name, option.flags[0]
    line = [text] if place else ["a prompt", flag, *([text] if plain_type(option.hint) is not bool else [])]
    path = tmp_path / "a.json"
    path.write_text(to_json({"generate": {option.name: meant}}), encoding="utf-8")
    usual = replace(GenerateOptions(), prompt="a prompt")
    for given in (line, ["a prompt", "--set", f"{option.path}={shown}"], ["a prompt", "--config", str(path)]):
        asked, found = section_asked(GenerateOptions, build_parser().parse_args(["generate", *given]))
        if place and "--config" in given:
            meant = "a prompt"  # given as well
        assert not found and asked == replace(usual, **{option.name: meant})


def test_what_a_file_for_generate_cannot_be(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('{"generate": {"stpes": 3, "steps": 0}, "train": {"seed": 1}}', encoding="utf-8")
    options = build_parser().parse_args(["generate", "x", "--config", str(path), "--set", "train.seed=1"])
    found = [str(one) for one in section_asked(GenerateOptions, options)[1]]
    assert f"{path}, [generate] stpes" in found[0] and "steps" in found[0]
    assert f"{path}, train" in found[1] and "train.seed=1" in found[2]
    path.write_text('{"version": 1, "generate": {"steps": 0, "count": 0}}', encoding="utf-8")
    found = [
        one.where
        for one in section_asked(GenerateOptions, build_parser().parse_args(["generate", "x", "--config", str(path)]))[
            1
        ]
    ]
    assert found == ["generate.count", "generate.steps"]


def test_prepare_reads_the_file_of_a_run(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(
        '{"prepare": {"target": 640, "max_blur": 2}, "data": {"tag": "sks", "folder": "in"}}', encoding="utf-8"
    )

    def asked(*line: str) -> RunConfig:
        return prepare_asked(build_parser().parse_args(["prepare", "--config", str(path), *line]))

    found = asked()
    assert (found.prepare.target, found.prepare.max_blur, found.data.tag, found.data.folder) == (640, 2, "sks", "in")
    assert found.prepare.operations == PREPARED
    found = asked("--target", "700", "--tag", "x", "--process", "face", "--set", "prepare.max_blur=3")
    assert (found.prepare.target, found.prepare.max_blur, found.data.tag) == (700, 3, "x")
    assert found.prepare.operations == ("face",)
    path.write_text('{"prepare": {"operations": ["face", "resize"]}}', encoding="utf-8")
    assert asked().prepare.operations == ("face", "resize")
    with pytest.raises(LoraTrainError, match="prepare.targt"):
        asked("--set", "prepare.targt=3")
    assert main(["prepare"]) == 2


def test_a_file_of_options_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where it is saved anew."""
    path, read = tmp_path / "a.json", list[Path]()
    path.write_text('{"train": {"seed": 3}}', encoding="utf-8")

    def reading(one: Path) -> Any:
        read.append(one)
        return read_sections(one)

    monkeypatch.setattr("lora_train.cli.preset.read_sections", reading)
    monkeypatch.setattr("lora_train.runs.terminal.train_with_progress", lambda *given: 0)
    line = [*("--model", "m", "--input", "in", "--output", "x", "--dir", "out"), "--offline"]
    assert main(["train", "--config", str(path), "--save-config", str(tmp_path / "b.json"), *line]) == 0
    assert read == [path] and read_options(tmp_path / "b.json")[0].train.seed == 3

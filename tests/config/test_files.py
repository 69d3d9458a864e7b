"""Options in files, and single ones by their names."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

from lora_train.config import RunConfig
from lora_train.config.files import read_options, set_options, write_config
from lora_train.errors import LoraTrainError

HAS_TOML = any(importlib.util.find_spec(name) for name in ("tomllib", "tomli"))
needs_toml = pytest.mark.skipif(not HAS_TOML, reason="this Python reads no TOML")

CHANGED = RunConfig.from_dict(
    {
        "data": {"folder": 'C:\\a "b"\n\x7fé猫', "resolution": 704, "flip_aug": True, "enable_bucket": False},
        "prepare": {"operations": ["face"], "captioner_command": ["a b", "{picture}"]},
        "network": {"block_dims": [1] * 25, "block_alphas": [0.5] * 25, "network_rules": ["a{1,2}: off"]},
        "train": {"learning_rate": 1e-7, "seed": 2**63 - 1, "weight_decay": 0.0},
    }
)


@pytest.mark.parametrize("name", ["a.json", pytest.param("a.toml", marks=needs_toml)])
@pytest.mark.parametrize("config", [RunConfig(), CHANGED])
def test_what_is_written_is_read_the_same(tmp_path: Path, name: str, config: RunConfig) -> None:
    write_config(tmp_path / name, config)
    assert read_options(tmp_path / name)[0] == config


@needs_toml
def test_a_file_may_say_little(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text("\ufeff[train]\nseed = 7\nlearning_rate = 1\n", encoding="utf-8")
    assert read_options(path)[0] == RunConfig.from_dict({"train": {"seed": 7, "learning_rate": 1.0}})


def test_toml_says_what_happens_with_what_is_open(tmp_path: Path) -> None:
    write_config(tmp_path / "a.toml", RunConfig())
    text = (tmp_path / "a.toml").read_text(encoding="utf-8")
    assert "# max_train_steps is not given: by the number of pictures\n" in text and "\nseed = 42\n" in text


def test_all_that_is_wrong_in_a_file_is_told_with_its_place(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('{"train": {"sed": 7, "learning_rate": "x"}, "zzz": 1}', encoding="utf-8")
    with pytest.raises(LoraTrainError) as caught:
        read_options(path)[0]
    assert [one.where for one in caught.value.problems] == [
        f"{path}, [train] sed",
        f"{path}, [train] learning_rate",
        f"{path}, zzz",
    ]
    assert "Did you mean seed?" in caught.value.problems[0].fix


@pytest.mark.parametrize("text", ["[", "[1]", "{'a': 1}", '{"train": {}, "train": {}}', "\ud800"])
def test_what_is_no_json_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(LoraTrainError, match="this is not JSON") as caught:
        read_options(path)[0]
    assert caught.value.problems[0].where == str(path)


def test_files_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(LoraTrainError, match="cannot read the options"):
        read_options(tmp_path / "nowhere.json")[0]
    (tmp_path / "a.toml").write_text("", encoding="utf-8")
    monkeypatch.setitem(sys.modules, "tomllib", None)
    monkeypatch.setitem(sys.modules, "tomli", None)
    with pytest.raises(LoraTrainError, match="cannot read TOML"):
        read_options(tmp_path / "a.toml")[0]


def test_any_option_is_set_by_its_name() -> None:
    given = ["train.seed=7", "data.flip_aug = true", "network.network_rules=a: off; b: dim=4", "train.seed=8"]
    given += ["prepare.captioner_command='a b' {picture}", "prepare.tag_blacklist=a, b", "train.max_train_steps=none"]
    assert set_options(RunConfig.from_dict({"train": {"max_train_steps": 3}}), given) == RunConfig.from_dict(
        {
            "train": {"seed": 8},
            "data": {"flip_aug": True},
            "network": {"network_rules": ["a: off", "b: dim=4"]},
            "prepare": {"captioner_command": ["a b", "{picture}"], "tag_blacklist": ["a", "b"]},
        }
    )


def test_all_that_cannot_be_set_is_told() -> None:
    with pytest.raises(LoraTrainError) as caught:
        set_options(RunConfig(), ["train.sed=7", "train.seed", "train=3", "data.flip_aug=maybe", "train.seed=1.5"])
    told = [str(problem) for problem in caught.value.problems]
    assert len(told) == 5 and "Did you mean 'train.seed'?" in told[0] and "'maybe' is neither" in told[3]

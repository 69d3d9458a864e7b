from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_train.data.formats.dataset_toml import Subset, read_dataset_config
from lora_train.errors import LoraTrainError

if sys.version_info < (3, 11):
    pytest.importorskip("tomli")

CONFIG = """
[general]
shuffle_caption = true
caption_extension = ".txt"
keep_tokens = 1
resolution = [512, 768]
caption_dropout_rate = 1
color_aug = true

[[datasets]]
batch_size = 4
enable_bucket = true
keep_tokens = 2
min_bucket_reso = 128

  [[datasets.subsets]]
  image_dir = "a"
  class_tokens = "sara woman"
  num_repeats = 7
  is_reg = true
  batch_size = 9

  [[datasets.subsets]]
  image_dir = "b"
  keep_tokens = 5
  caption_prefix = "p "
  flip_aug = true

[[datasets]]
resolution = 1024
validation_split = 0.1

  [[datasets.subsets]]
  metadata_file = "meta.json"
"""


def _write(folder: Path, text: str, name: str = "dataset.toml") -> Path:
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


def test_the_narrower_value_wins(tmp_path: Path) -> None:
    config = read_dataset_config(_write(tmp_path, CONFIG))
    general: dict[str, Any] = {"shuffle_caption": True, "caption_dropout_rate": 1.0}
    dataset: dict[str, Any] = {"batch_size": 4, "enable_bucket": True, "min_bucket_reso": 128}
    first = Subset(
        "datasets[0].subsets[0]",
        image_dir="a",
        is_reg=True,
        num_repeats=7,
        class_tokens="sara woman",
        caption_extension=".txt",
        resolution=(512, 768),
        own={**general, **dataset, "keep_tokens": 2},
    )
    second = Subset(
        "datasets[0].subsets[1]",
        image_dir="b",
        caption_prefix="p ",
        caption_extension=".txt",
        resolution=(512, 768),
        own={**general, **dataset, "keep_tokens": 5, "flip_aug": True},
    )
    third = Subset(
        "datasets[1].subsets[0]",
        dataset=1,
        metadata_file="meta.json",
        caption_extension=".txt",
        resolution=(1024, 1024),
        own={**general, "keep_tokens": 1},
    )
    assert config.subsets == [first, second, third]
    assert config.ignored == ["general.color_aug", "datasets[0].subsets[0].batch_size", "datasets[1].validation_split"]


def test_json_is_a_config_too(tmp_path: Path) -> None:
    data = {"datasets": [{"subsets": [{"image_dir": "é", "num_repeats": 2}]}], "other": 1}
    config = read_dataset_config(_write(tmp_path, json.dumps(data), "dataset.json"))
    assert config.subsets == [Subset("datasets[0].subsets[0]", "é", num_repeats=2)]
    assert config.ignored == ["other"]


def test_all_mistakes_are_told_together(tmp_path: Path) -> None:
    text = """
    general.num_repeats = -1
    [[datasets]]
    batch_size = 0
    resolution = [1, 2, 3]
    [[datasets.subsets]]
    image_dir = 3
    shuffle_caption = "yes"
    keep_tokens = true
    caption_dropout_rate = "x"
    [[datasets.subsets]]
    num_repeats = 2
    """
    with pytest.raises(LoraTrainError) as told:
        read_dataset_config(_write(tmp_path, text))
    assert [problem.where for problem in told.value.problems] == [
        "datasets[0].subsets[0].image_dir",
        "general.num_repeats",
        "datasets[0].subsets[0].shuffle_caption",
        "datasets[0].subsets[0].keep_tokens",
        "datasets[0].subsets[0].caption_dropout_rate",
        "datasets[0].batch_size",
        "datasets[0].resolution",
        "datasets[0].subsets[1]",
    ]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "no .*subsets"),
        ("x = ", "not a dataset config"),
        ("datasets = 1", "list of tables"),
        ("datasets = [1]", "list of tables"),
        ("general = 1", "must be a table"),
        ("[[datasets]]\nsubsets = {}", "list of tables"),
        ("[[datasets]]", "no .*subsets"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(LoraTrainError, match=told):
        read_dataset_config(_write(tmp_path, text))


def test_what_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(LoraTrainError, match="cannot read"):
        read_dataset_config(tmp_path / "nowhere.toml")
    (tmp_path / "a.toml").write_bytes(b"\xff")
    with pytest.raises(LoraTrainError, match="not a dataset config"):
        read_dataset_config(tmp_path / "a.toml")
    monkeypatch.setitem(sys.modules, "tomllib", None)
    monkeypatch.setitem(sys.modules, "tomli", None)
    with pytest.raises(LoraTrainError, match="pip install tomli"):
        read_dataset_config(_write(tmp_path, CONFIG))


keys = st.sampled_from(["general", "datasets", "subsets", "image_dir", "resolution", "batch_size", "flip_aug", "x"])
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=15,
)


@given(st.fixed_dictionaries({"datasets": st.lists(st.dictionaries(keys, values), max_size=2)}) | values)
def test_any_json_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, value: object) -> None:
    file = tmp_path_factory.getbasetemp() / "any-dataset.json"
    file.write_text(json.dumps(value))
    try:
        assert read_dataset_config(file).subsets
    except LoraTrainError as error:
        assert all(problem.what and problem.where for problem in error.problems)

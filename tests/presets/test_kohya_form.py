"""Our options in sd-scripts' form: everything that it has, in its words; the rest is named."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lora_train.config import DataOptions, RunConfig
from lora_train.config.files import read_options
from lora_train.config.presets import import_options
from lora_train.config.table import Option, options
from lora_train.config.values import item_type, may_be_none, plain_type
from lora_train.presets.kohya_form import exported, write_kohya

HAS_TOML = any(importlib.util.find_spec(name) for name in ("tomllib", "tomli"))
needs_toml = pytest.mark.skipif(not HAS_TOML, reason="this Python reads no TOML")

RUN: dict[str, Any] = {
    "model": {"path": "base.safetensors", "clip_skip": 2},
    "data": {"folder": "pictures", "resolution": 768, "train_batch_size": 2, "keep_tokens": 1, "flip_aug": True},
    "network": {
        **{"kind": "lokr", "network_dim": 8, "network_alpha": 4.0, "factor": 8, "decompose_both": True},
        **{"conv_dim": 4, "conv_alpha": 1.0, "rank_dropout": 0.1, "network_train_unet_only": True},
    },
    "train": {
        **{"max_train_steps": 900, "learning_rate": 2e-4, "lr_scheduler": "constant", "lr_warmup_steps": 45.0},
        **{"mixed_precision": "fp32", "min_snr_gamma": 5.0, "seed": 7, "optimizer_args": ["betas=0.9,0.99"]},
        **{"loss_type": "huber", "gradient_checkpointing": True, "noise_offset": 0.1},
    },
    "save": {"output_name": "sara", "output_dir": "loras", "save_precision": "fp32", "save_every_n_steps": 100},
}


def test_a_run_in_its_words() -> None:
    made = exported(RunConfig.from_dict(RUN))
    assert made.values == {
        "caption_extension": ".txt",
        "network_module": "lycoris.kohya",
        "network_args": [
            *("algo=lokr", "conv_dim=4", "conv_alpha=1", "factor=8", "decompose_both=True", "rank_dropout=0.1"),
        ],
        "pretrained_model_name_or_path": "base.safetensors",
        "clip_skip": 2,
        "train_data_dir": "pictures",
        "resolution": "768,768",
        "train_batch_size": 2,
        "enable_bucket": True,
        "flip_aug": True,
        "keep_tokens": 1,
        "network_dim": 8,
        "network_alpha": 4.0,
        "network_train_unet_only": True,
        "max_train_steps": 900,
        "learning_rate": 2e-4,
        "optimizer_type": "adamw",
        "optimizer_args": ["betas=0.9,0.99", "weight_decay=0.01"],
        "lr_scheduler": "constant_with_warmup",
        "lr_warmup_steps": 45.0,
        "gradient_checkpointing": True,
        "loss_type": "huber",
        "min_snr_gamma": 5.0,
        "noise_offset": 0.1,
        "mixed_precision": "no",
        "seed": 7,
        "output_name": "sara",
        "output_dir": "loras",
        "save_every_n_steps": 100,
        "save_precision": "float",
    }
    assert made.left == {}


@pytest.mark.parametrize("ending", [pytest.param("toml", marks=needs_toml), "json"])
def test_read_again_it_is_the_same_run(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"a.{ending}"
    config = RunConfig.from_dict(RUN)
    assert write_kohya(path, config) == []
    found, lines = read_options(path)
    assert not [line for line in lines if line.startswith("not honoured")]
    arguments = ("betas=0.9,0.99", "weight_decay=0.01")  # the same decay, as it is written there
    assert found == replace(config, train=replace(config.train, optimizer_args=arguments))


@pytest.mark.parametrize(
    ("train", "schedule"),
    [
        ({}, "cosine"),
        ({"lr_scheduler_min_lr_ratio": 0.1}, "cosine_with_min_lr"),
        ({"lr_scheduler": "constant"}, "constant"),
        ({"lr_scheduler": "constant", "lr_warmup_steps": 3.0}, "constant_with_warmup"),
        ({"lr_scheduler": "cosine_with_restarts"}, "cosine_with_restarts"),
    ],
)
def test_schedules_have_the_names_that_mean_the_same_there(
    train: dict[str, Any], schedule: str, tmp_path: Path
) -> None:
    config = RunConfig.from_dict({"train": train})
    assert exported(config).values["lr_scheduler"] == schedule
    write_kohya(tmp_path / "a.json", config)
    assert read_options(tmp_path / "a.json")[0].train.lr_scheduler == config.train.lr_scheduler


@needs_toml
def test_texts_are_written_as_toml_reads_them(tmp_path: Path) -> None:
    config = RunConfig.from_dict({"train": {"optimizer_args": ["a='b'", 'c="d\\"']}})
    write_kohya(tmp_path / "a.toml", config)
    assert read_options(tmp_path / "a.toml")[0].train.optimizer_args[:2] == config.train.optimizer_args


def test_what_it_does_not_have_is_named() -> None:
    given = {
        "network": {"network_rules": ["attn: off"], "init_lora_weights": "pissa"},
        "train": {"preserve": 0.3, "zero_terminal_snr": False, "gradient_accumulation_steps": -1},
        "prepare": {"operations": ["face"]},
        "model": {"v_parameterization": False},
    }
    left = exported(RunConfig.from_dict(given)).left
    for path in ("network.network_rules", "network.init_lora_weights", "train.preserve", "prepare.operations"):
        assert "sd-scripts has no such option" in left[path]
    assert "cannot be told" in left["model.v_parameterization"] and "train.gradient_accumulation_steps" in left
    for path in ("train.learning_rate", "train.max_train_steps", "network.network_dim", "data.resolution"):
        assert "left open" in left[path]


def other(option: Option) -> Any:
    """A value that is not the default."""
    hint, about = plain_type(option.hint), option.about
    if hint is bool:
        return not option.default
    if about.choices:
        last = [one for one in about.choices if one != option.default][-1]
        return [last] if item_type(hint) else last
    if item := item_type(hint):
        return ["a=1"] if item is str else [item(1), item(2)]
    if hint is str:
        return "some text"
    low, high = about.range or (2, 99)
    return hint(min(high, low + (high - low) / 2))


@pytest.mark.parametrize(
    "option", [one for one in options() if one.path not in ("network.kind",)], ids=lambda option: option.path
)
def test_every_option_comes_back_or_is_named(option: Option, tmp_path: Path) -> None:
    value = other(option)
    sections: dict[str, Any] = {option.section: {option.name: value}}
    if option.about.kinds and "lora" not in option.about.kinds:
        sections.setdefault("network", {})["kind"] = option.about.kinds[0]
    if option.path == "network.conv_alpha":
        sections["network"]["conv_dim"] = 4
    if option.path == "network.base_weights_multiplier":
        sections["network"]["base_weights"] = ["a", "b"]
    config = RunConfig.from_dict(sections)
    path = tmp_path / "a.json"
    lines = write_kohya(path, config)
    named = any(f" {option.path}: " in line for line in lines)
    back, report = read_options(path)
    if named:
        assert not option.about.kohya or may_be_none(option.hint) or option.path.endswith("accumulation_steps")
    elif option.path == "train.weight_decay":
        assert any(one == f"weight_decay={value:g}" for one in back.train.optimizer_args)
    elif option.path == "train.optimizer_args":
        assert back.train.optimizer_args[:1] == ("a=1",)
    else:
        assert option.of(back) == option.of(config), report


def test_width_and_height_are_one_option_there(tmp_path: Path) -> None:
    run = RunConfig(data=DataOptions(resolution=512, height=768))
    found = exported(run)
    assert found.values["resolution"] == "512,768" and "data.height" not in found.left
    assert import_options(found.values).config().data.size == (512, 768)
    assert "data.height" in exported(RunConfig(data=DataOptions(height=768))).left

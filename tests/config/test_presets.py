"""Options as other programs keep them: what is taken, what differs, and what is left with its reason."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from lora_train.config import RunConfig, kohya, problems
from lora_train.config.files import read_options
from lora_train.config.presets import GUI_KINDS, GUI_NAMES, import_options, is_foreign
from lora_train.config.table import options
from lora_train.errors import LoraTrainError

HAS_TOML = any(importlib.util.find_spec(name) for name in ("tomllib", "tomli"))
needs_toml = pytest.mark.skipif(not HAS_TOML, reason="this Python reads no TOML")

TOML = """
pretrained_model_name_or_path = "base.safetensors"
[folders]
train_data_dir = "pictures"
output_name = "sara"
[training]
resolution = "768,768"
network_module = "lycoris.kohya"
network_dim = 8
network_alpha = 4
network_args = ["algo=lokr", "factor=8", "preset=attn-mlp"]
max_train_steps = 500
lr_warmup_steps = 0.1
learning_rate = 2e-4
optimizer_type = "AdamW"
optimizer_args = ["weight_decay=0.01", "betas=0.9,0.999"]
lr_scheduler = "cosine_with_restarts"
mixed_precision = "no"
min_snr_gamma = 0
seed = 9223372036854775807
cache_latents = true
xformers = false
loss_type = "huber"
flip_aug = true
base_weights = ["a.safetensors", "b.safetensors"]
base_weights_multiplier = [0.5, 1]
"""

GUI: dict[str, Any] = {
    "LoRA_type": "Standard",
    "additional_parameters": "--max_grad_norm=0 --min_bucket_reso 320 --debug_dataset",
    "block_dims": "",
    "caption_extension": ".txt",
    "clip_skip": "2",
    "conv_dim": 8,
    "epoch": 50,
    "factor": -1,
    "gradient_accumulation_steps": 1.0,
    "learning_rate": 3e-05,
    "lr_scheduler": "constant_with_warmup",
    "lr_warmup": 10,
    "max_resolution": "1024,1024",
    "max_timestep": 1000,
    "max_train_epochs": "",
    "max_train_steps": "1500",
    "min_snr_gamma": 5,
    "noise_offset_type": "Original",
    "optimizer": "AdamW8bit",
    "prior_loss_weight": 1.0,
    "scale_weight_norms": 0,
    "sdxl": True,
    "seed": "",
    "stop_text_encoder_training_pct": 20,
    "text_encoder_lr": 0,
    "train_on_input": True,
    "unet_lr": 1e-4,
    "unit": 1,
    "use_wandb": False,
    "v_parameterization": False,
    "weighted_captions": True,
    "strange": "x",
}


@needs_toml
def test_a_config_file_of_sd_scripts(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text(TOML, encoding="utf-8")
    config, report = read_options(path)
    assert config == RunConfig.from_dict(
        {
            "model": {"path": "base.safetensors"},
            "data": {"folder": "pictures", "resolution": 768, "flip_aug": True},
            "save": {"output_name": "sara"},
            "network": {
                **{"kind": "lokr", "network_dim": 8, "network_alpha": 4.0, "factor": 8},
                **{"base_weights": ["a.safetensors", "b.safetensors"], "base_weights_multiplier": [0.5, 1.0]},
            },
            "train": {
                **{"max_train_steps": 500, "lr_warmup_steps": 50, "learning_rate": 2e-4, "mixed_precision": "fp32"},
                **{"optimizer": "adamw", "seed": 2**63 - 1, "loss_type": "huber"},
                **{"optimizer_args": ["weight_decay=0.01", "betas=0.9,0.999"], "lr_scheduler": "cosine_with_restarts"},
            },
        }
    )
    assert config == read_options(path)[0]
    text = "\n".join(report)
    assert "taken: resolution as data.resolution = 768" in text and "differs: cache_latents is always on here" in text
    left = [line for line in report if line.startswith("not honoured: ")]
    assert [line.split()[2] for line in left] == ["preset"]
    assert "xformers" not in text and "min_snr_gamma" not in text


def test_a_preset_of_the_gui() -> None:
    imported = import_options(GUI)
    config = imported.config()
    train, data, network = config.train, config.data, config.network
    assert (config.model.clip_skip, config.model.v_parameterization, data.resolution) == (2, None, 1024)
    assert (train.max_train_steps, train.lr_warmup_steps, train.stop_text_encoder_training) == (1500, 150, 300)
    assert (train.learning_rate, train.unet_lr, train.text_encoder_lr) == (3e-5, 1e-4, None)
    assert (train.min_snr_gamma, train.seed, train.max_grad_norm, train.lr_scheduler) == (5.0, 42, 0.0, "constant")
    assert network.network_train_unet_only, "a rate of 0 for the text encoder is how the GUI says it"
    assert (network.kind, network.conv_dim, network.scale_weight_norms) == ("lora", None, None)
    assert data.min_bucket_reso == 320
    assert {*imported.differs} == {"sdxl"} and config.train.optimizer == "adamw8bit"
    left = {"conv_dim", "max_train_epochs", "train_on_input", "strange", "debug_dataset"}
    assert data.weighted_captions and not train.max_train_epochs
    assert {*imported.left} == left
    where = {problem.where for problem in problems(config)}
    assert where == {problem.where for problem in problems(RunConfig())}, "nothing that was taken is refused afterwards"


def test_every_name_is_somewhere_in_the_report_unless_it_says_nothing() -> None:
    for name in (*kohya.ABSENT, *kohya.NOTED, *(name for option in options() for name in option.about.kohya)):
        if name in ("pretrained_model_name_or_path", "network_args", "optimizer_args"):
            continue
        imported = import_options({name: "7", "network_module": "networks.lora"})
        mentioned = {*imported.taken} | {*imported.differs} | {*imported.left}
        assert mentioned == {name} or (name in kohya.SAME and kohya.is_same(name, "7")), name
        assert not [*import_options({name: "", "network_module": "networks.lora"}).lines()], name


@pytest.mark.parametrize("name", ["Prodigy", "Lion", "DAdaptAdam", "AdamW8bit", "PagedAdamW8bit"])
def test_an_optimizer_is_taken_with_its_rates_and_arguments(name: str) -> None:
    given = {"optimizer_type": name, "learning_rate": 1.0, "optimizer_args": ["decouple=True", "d_coef=2"]}
    train = import_options(given).config().train
    assert (train.optimizer, train.learning_rate) == (name.lower(), 1.0)
    assert train.optimizer_args == ("decouple=True", "d_coef=2")


@pytest.mark.parametrize("name", ["Sophia", "my_package.Adam"])
def test_the_rates_of_an_optimizer_that_is_not_there_are_not_taken(name: str) -> None:
    """Some are 1, with which AdamW would ruin everything."""
    given = {"optimizer_type": name, "learning_rate": 1.0, "unet_lr": 1, "optimizer_args": ["decouple=True"]}
    imported = import_options(given | {"weight_decay": 0.5})
    assert imported.config().train == RunConfig().train
    assert {"optimizer_type", "learning_rate", "unet_lr", "optimizer_args"} <= {*imported.left}


@pytest.mark.parametrize(("gui", "kind"), [*GUI_KINDS.items(), ("LyCORIS/DyLoRA", "lora")])
def test_kinds_of_the_gui(gui: str, kind: str) -> None:
    imported = import_options({"LoRA_type": gui.title() if gui.islower() else gui, "network_dim": 8})
    network = imported.config().network
    assert network.kind == ("lora" if kind == "locon" else kind) and bool(network.conv_dim) == (kind == "locon")
    assert ("network" in imported.left) == (gui == "LyCORIS/DyLoRA")


def test_lokr_that_decomposes_nothing() -> None:
    """People write a dimension of 100000, as LyCORIS' own page says."""
    imported = import_options({"LoRA_type": "LyCORIS/LoKr", "network_dim": 100000, "conv_dim": 100000, "factor": 8})
    network = imported.config().network
    assert (network.kind, network.full_matrix, network.network_dim, network.factor) == ("lokr", True, None, 8)
    assert "network_dim" in imported.differs and not imported.left


def test_both_rates_at_0_mean_the_general_one() -> None:
    given = {"LoRA_type": "Standard", "learning_rate": 1e-4, "unet_lr": 0, "text_encoder_lr": "0"}
    config = import_options(given).config()
    assert config.train == RunConfig.from_dict({"train": {"learning_rate": 1e-4}}).train
    assert config.network == RunConfig().network
    only = import_options(given | {"text_encoder_lr": 1e-5}).config()
    assert only.network.network_train_text_encoder_only and only.train.unet_lr is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("network_dim", "eight"),
        ("network_dim", 8.5),
        ("learning_rate", "inf"),
        ("text_encoder_lr", [1e-5, 2e-5]),
        ("resolution", "512,768,1"),
        ("block_dims", "1,x"),
        ("mixed_precision", "fp8"),
        ("bucket_reso_steps", 1),
    ],
)
def test_a_value_that_cannot_be_taken_is_left_with_its_reason(name: str, value: Any) -> None:
    imported = import_options({name: value})
    assert [*imported.left] == [name] and not imported.taken and imported.config() == RunConfig()


def test_a_warm_up_of_a_share_of_the_steps() -> None:
    """It is taken as a share where the number of steps is open."""
    assert import_options({"lr_warmup_steps": 0.1}).config().train.lr_warmup_steps == 0.1
    assert import_options({"lr_warmup_steps": 0.1, "max_train_steps": 500}).config().train.lr_warmup_steps == 50


@pytest.mark.parametrize("text", ['--a="b', "words --b", "--seed=7 'x"])
def test_an_odd_line_of_flags_is_no_crash(text: str) -> None:
    import_options({"LoRA_type": "Standard", "additional_parameters": text, "lr_warmup": "x"})


def test_whose_file_it_is() -> None:
    assert is_foreign(GUI) and is_foreign({"any": {"train_data_dir": "x"}}) and is_foreign({"xformers": True})
    assert not is_foreign(RunConfig().to_dict()) and not is_foreign({"train": {"learning_rate": 1e-4}})
    assert not is_foreign({}) and not is_foreign({"zzz": 1})
    assert not is_foreign({"generate": {"seed": 1}}), (
        "a file for `generate` is refused by `train`, not taken for another's"
    )
    assert {*GUI_NAMES.values()} <= {
        *kohya.ABSENT,
        *kohya.NOTED,
        *(name for option in options() for name in option.about.kohya),
    }


def test_a_dataset_config_is_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"general": {"flip_aug": True}, "datasets": [{"resolution": 512}]}), encoding="utf-8")
    with pytest.raises(LoraTrainError, match=r"Give it as data\.dataset_config"):
        read_options(path)[0]

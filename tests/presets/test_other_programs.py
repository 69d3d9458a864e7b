"""Presets of OneTrainer and ai-toolkit, written for these tests in the form of public ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lora_train import yamls
from lora_train.config import RunConfig, problems
from lora_train.config.files import read_options
from lora_train.config.presets import import_options, is_foreign
from lora_train.errors import LoraTrainError

ONETRAINER: dict[str, Any] = {
    "__version": 6,
    "training_method": "LORA",
    "model_type": "STABLE_DIFFUSION_XL_10_BASE",
    "base_model_name": "base.safetensors",
    "workspace_dir": "workspace/sara",
    "output_model_destination": "loras/sara.safetensors",
    "output_model_format": "SAFETENSORS",
    "output_dtype": "BFLOAT_16",
    "train_dtype": "BFLOAT_16",
    "weight_dtype": "FLOAT_16",
    "concept_file_name": "training_concepts/sara.json",
    "concepts": [
        {
            "name": "sara",
            "path": "pictures",
            "enabled": True,
            "seed": -3,
            "balancing": 3.0,
            "balancing_strategy": "REPEATS",
            "image": {"enable_random_flip": True, "enable_crop_jitter": True, "random_hue_max_strength": 0.1},
            "text": {"enable_tag_shuffling": True, "keep_tags_count": 2, "prompt_source": "sample"},
        },
        {"path": "others", "enabled": False},
    ],
    "learning_rate": 0.0002,
    "learning_rate_scheduler": "COSINE_WITH_HARD_RESTARTS",
    "learning_rate_cycles": 3.0,
    "learning_rate_warmup_steps": 80.0,
    "gradient_accumulation_steps": 2,
    "batch_size": 4,
    "epochs": 20,
    "resolution": "1024",
    "peft_type": "LORA",
    "lora_rank": 32,
    "lora_alpha": 16.0,
    "lora_decompose": True,
    "layer_filter_preset": "attn-mlp",
    "dropout_probability": 0.1,
    "clip_grad_norm": 1.0,
    "loss_weight_fn": "MIN_SNR_GAMMA",
    "loss_weight_strength": 4.0,
    "offset_noise_weight": 0.03,
    "perturbation_noise_weight": 0.02,
    "min_noising_strength": 0.05,
    "timestep_distribution": "LOGIT_NORMAL",
    "noising_weight": 0.5,
    "noising_bias": 0.25,
    "ema": "GPU",
    "rescale_noise_scheduler_to_zero_terminal_snr": False,
    "unet": {"train": True, "learning_rate": 0.0001, "weight_dtype": "BFLOAT_16"},
    "text_encoder": {
        "train": True,
        "learning_rate": 2e-5,
        "stop_training_after": 500,
        "stop_training_after_unit": "STEP",
    },
    "text_encoder_2": {"train": False},
    "prior": {"train": True, "learning_rate": 1.0},
    "optimizer": {
        "optimizer": "PRODIGY",
        "d_coef": 0.8,
        "beta1": 0.9,
        "beta2": 0.99,
        "weight_decay": 0.02,
        "eps": None,
    },
    "samples": [
        {"enabled": True, "prompt": "a photo", "negative_prompt": "blur", "width": 832, "height": 1216, "seed": 7}
    ],
    "sample_after": 50,
    "sample_after_unit": "STEP",
    "save_every": 200,
    "save_every_unit": "STEP",
    "backup_after": 15,
    "backup_after_unit": "MINUTE",
    "compile": True,
    "something_new": 3,
}

AI_TOOLKIT = """
---
job: extension
config:
  name: "sara"
  process:
    - type: 'sd_trainer'
      training_folder: "loras"
      device: cuda:1
      trigger_word: "sks woman"
      network: {type: lora, linear: 16, linear_alpha: 8, conv: 4, conv_alpha: 2}
      save: {dtype: float16, save_every: 250, max_step_saves_to_keep: 4, push_to_hub: false}
      datasets:
        - folder_path: "pictures"
          caption_ext: "txt"
          caption_dropout_rate: 0.05
          shuffle_tokens: true
          keep_tokens: 1
          cache_latents_to_disk: true
          resolution: [ 768 ]
          num_repeats: 2
          flip_y: true
      train:
        batch_size: 2
        steps: 1500
        gradient_accumulation_steps: 3
        train_unet: true
        train_text_encoder: false
        gradient_checkpointing: true
        noise_scheduler: "ddpm"
        optimizer: "adamw8bit"
        lr: 1e-4
        optimizer_params: {weight_decay: 1e-2, betas: [0.9, 0.99]}
        ema_config: {use_ema: true, ema_decay: 0.99}
        dtype: bf16
        min_snr_gamma: 5.0
      model: {name_or_path: "base.safetensors", is_xl: true}
      sample:
        sampler: "ddpm"
        sample_every: 100
        width: 1024
        height: 768
        prompts: ["photo of [trigger]", "a dog"]
        neg: "blur"
        seed: 42
        walk_seed: true
        guidance_scale: 6
        sample_steps: 25
meta: {name: "[name]", version: '1.0'}
"""


def test_a_preset_of_onetrainer() -> None:
    imported = import_options(ONETRAINER)
    config = imported.config()
    model, data, network, train, save = config.model, config.data, config.network, config.train, config.save
    assert (model.path, model.v_parameterization, data.folder) == ("base.safetensors", None, "pictures")
    assert (data.resolution, data.train_batch_size, data.flip_aug, data.shuffle_caption) == (1024, 4, True, True)
    assert (data.keep_tokens, data.repeats, data.enable_bucket) == (2, 3, True)
    assert (network.network_dim, network.network_alpha, network.network_dropout) == (32, 16, 0.1)
    assert (network.dora_wd, network.wd_on_output, network.conv_dim) == (True, False, None)
    assert (train.gradient_accumulation_steps, train.lr_scheduler, train.lr_scheduler_num_cycles) == (
        *(2, "cosine_with_restarts"),
        3,
    )
    assert train.lr_warmup_steps == 40, "counted in micro-batches there"
    assert (train.learning_rate, train.unet_lr, train.text_encoder_lr1, train.text_encoder_lr2) == (2e-4, 1e-4, 2e-5, 0)
    assert (train.stop_text_encoder_training, network.network_train_unet_only) == (500, False)
    assert (train.optimizer, train.optimizer_args) == ("prodigy", ("betas=0.9,0.99", "d_coef=0.8"))
    assert (train.weight_decay, train.min_snr_gamma, train.noise_offset) == (0.02, 4, 0.03)
    assert (train.timestep_sampling, train.logit_mean, train.logit_std) == ("logit_normal", 0.25, 1.5)
    assert (train.min_timestep, train.max_timestep, train.mixed_precision) == (50, 1000, "bf16")
    assert (save.output_name, save.output_dir, save.save_precision) == ("sara", "loras", "bf16")
    assert (save.save_every_n_steps, save.save_state_every_n_minutes) == (200, 15)
    assert config.preview.prompts == ("a photo --n blur --w 832 --h 1216 --d 7",)
    assert config.preview.sample_every_n_steps == 50
    left = {"perturbation_noise_weight", "ema", "something_new"}
    assert left <= {*imported.left} and "random_hue" not in " ".join(imported.left)
    assert {"model_type", "prior", "compile"} <= {*imported.differs}


def test_what_a_preset_of_onetrainer_leaves_out_has_its_defaults() -> None:
    """Its alpha is 1, its warm-up 200 steps, its text encoder has the general rate, and it trains convolutions."""
    imported = import_options(
        {"training_method": "LORA", "model_type": "STABLE_DIFFUSION_15", "base_model_name": "b", "learning_rate": 3e-4}
    )
    config = imported.config()
    network, train = config.network, config.train
    assert (network.network_dim, network.network_alpha, network.conv_dim, network.conv_alpha) == (16, 1, 16, 1)
    assert (train.learning_rate, train.text_encoder_lr, train.lr_warmup_steps, train.lr_scheduler) == (
        *(3e-4, 3e-4),
        200,
        "constant",
    )
    assert (config.data.resolution, config.data.train_batch_size, train.optimizer) == (512, 1, "adamw")
    assert "taken: lora_alpha (its default) as network.network_alpha = 1.0" in [*imported.lines()]
    usual = {"batch_size": 4, "text_encoder": {"train": False}, "text_encoder_2": {"train": False}}
    xl = {"training_method": "LORA", "model_type": "STABLE_DIFFUSION_XL_10_BASE", "layer_filter_preset": "attn-mlp"}
    config = import_options(xl | usual).config()
    assert config.network.network_train_unet_only and config.network.conv_dim is None
    assert config.train.text_encoder_lr is None


@pytest.mark.parametrize(
    ("change", "left"),
    [
        ({"training_method": "FINE_TUNE"}, "training_method"),
        ({"model_type": "FLUX_DEV_1"}, "model_type"),
        ({"timestep_distribution": "BETA"}, "timestep_distribution"),
        ({"loss_scaler": "BOTH"}, "loss_scaler"),
        ({"learning_rate_scheduler": "CUSTOM"}, "learning_rate_scheduler"),
        ({"optimizer": {"optimizer": "MUON"}}, "optimizer.optimizer"),
        ({"mae_strength": 0.5}, "mse_strength"),
        ({"layer_filter_preset": "blocks"}, "layer_filter_preset"),
        ({"peft_type": "NEW"}, "peft_type"),
        ({"save_every_unit": "HOUR", "save_every": 1}, "save_every"),
        ({"resolution": "512,big"}, "resolution"),
    ],
)
def test_what_onetrainer_has_and_is_not_here_is_reported(change: dict[str, Any], left: str) -> None:
    plain = {"training_method": "LORA", "model_type": "STABLE_DIFFUSION_15"}
    before, after = import_options(plain), import_options(plain | change)
    assert left in after.left and left not in before.left
    assert "train.learning_rate" not in after.values or "optimizer" not in change


@pytest.mark.parametrize(
    ("given", "ours"), [("512,768", (512, None, (768,))), ("512x768", (512, 768, ())), ("640", (640, None, ()))]
)
def test_several_resolutions_are_no_width_and_height(given: str, ours: tuple[Any, ...]) -> None:
    """OneTrainer writes several with commas, width and height with an x; ai-toolkit writes a list."""
    plain = {"training_method": "LORA", "model_type": "STABLE_DIFFUSION_15"}
    data = import_options(plain | {"resolution": given}).config().data
    assert (data.resolution, data.height, data.more_resolutions) == ours
    if "x" not in given:
        dataset = {"folder_path": "a", "resolution": [int(side) for side in given.split(",")]}
        process = {"type": "sd_trainer", "datasets": [dataset]}
        data = import_options({"job": "extension", "config": {"name": "x", "process": [process]}}).config().data
        assert (data.resolution, data.height, data.more_resolutions) == ours


@pytest.mark.parametrize(("kind", "ours"), [("LOHA", "loha"), ("LOKR", "lokr"), ("OFT_2", "oft")])
def test_kinds_of_onetrainer(kind: str, ours: str) -> None:
    given = {"training_method": "LORA", "model_type": "STABLE_DIFFUSION_15", "peft_type": kind, "lora_rank": 5}
    given |= {
        "lokr_dim": 6,
        "oft_block_size": 7,
        "lokr_decompose_factor": 8,
        "lora_decompose": True,
        "oft_scaled": True,
    }
    network = import_options(given).config().network
    assert network.kind == ours
    assert network.network_dim == {"loha": 5, "lokr": 6, "oft": 7}[ours]
    assert network.factor == (8 if ours == "lokr" else -1) and network.rescaled == (ours == "oft")
    found = [one for one in problems(RunConfig(network=network)) if one.where.startswith("network.")]
    assert not found, "nothing that was taken is refused afterwards"


def test_a_config_of_ai_toolkit(tmp_path: Path) -> None:
    path = tmp_path / "sara.yaml"
    path.write_text(AI_TOOLKIT, encoding="utf-8")
    config, lines = read_options(path)
    model, data, network, train, save = config.model, config.data, config.network, config.train, config.save
    assert (model.path, data.folder, data.tag, train.device) == ("base.safetensors", "pictures", "sks woman", "cuda:1")
    assert (save.output_name, save.output_dir, save.save_precision, save.save_every_n_steps) == (
        "sara",
        "loras",
        "fp16",
        250,
    )
    assert (network.network_dim, network.network_alpha, network.conv_dim, network.conv_alpha) == (16, 8, 4, 2)
    assert (data.resolution, data.repeats, data.keep_tokens, data.caption_dropout_rate) == (768, 2, 1, 0.05)
    assert (data.shuffle_caption, data.flip_aug, data.train_batch_size) == (True, False, 2)
    assert (train.max_train_steps, train.gradient_accumulation_steps, train.learning_rate) == (1500, 3, 1e-4)
    assert (train.optimizer, train.optimizer_args, train.weight_decay) == ("adamw8bit", ("betas=0.9,0.99",), 0.01)
    assert (train.mixed_precision, train.min_snr_gamma, train.gradient_checkpointing) == ("bf16", 5, True)
    assert (train.lr_scheduler, train.lr_warmup_steps, network.network_train_unet_only) == ("constant", 0, True)
    flags = "--n blur --w 1024 --h 768 --d {} --s 25 --l 6"
    assert config.preview.prompts == (
        f"photo of sks woman {flags.format(42)}",
        f"a dog {flags.format(43)}",
    )
    assert config.preview.sample_every_n_steps == 100
    left = [line.split()[2] for line in lines if line.startswith("not honoured: ")]
    assert left == ["datasets:", "train.ema_config.use_ema"], lines
    path = tmp_path / "sara.json"
    path.write_text(json.dumps({"job": "extension", "config": {"name": "x", "process": [{"type": "sd_trainer"}]}}))
    config, lines = read_options(path)
    assert (config.network.network_dim, config.network.network_alpha, config.train.max_train_steps) == (4, 1, 1000)


@pytest.mark.parametrize(
    ("change", "left"),
    [
        ({"train": {"noise_scheduler": "flowmatch"}}, "train.noise_scheduler"),
        ({"model": {"is_flux": True}}, "model.is_flux"),
        ({"model": {"arch": "qwen_image"}}, "model.arch"),
        ({"network": {"type": "lorm"}}, "network.type"),
        ({"datasets": [{"folder_path": "a"}, {"folder_path": "b"}]}, "datasets"),
        ({"datasets": [{"folder_path": "a", "resolution": [512, "big"]}]}, "datasets: resolution"),
        ({"train": {"optimizer": "automagic", "lr": 1.0}}, "train.optimizer"),
        ({"network": {"network_kwargs": {"only_if_contains": ["attn"]}}}, "network.network_kwargs.only_if_contains"),
        ({"slider": {"positive": "x"}}, "slider.positive"),
    ],
)
def test_what_ai_toolkit_has_and_is_not_here_is_reported(change: dict[str, Any], left: str) -> None:
    process = {"type": "sd_trainer", **change}
    imported = import_options({"job": "extension", "config": {"name": "x", "process": [process]}})
    assert left in imported.left
    assert imported.config().train.learning_rate != 1.0


def test_a_lokr_of_ai_toolkit_is_whole() -> None:
    process = {"type": "sd_trainer", "network": {"type": "lokr", "lokr_factor": 4, "linear": 16}}
    network = import_options({"job": "train", "config": {"name": "x", "process": [process]}}).config().network
    assert (network.kind, network.full_matrix, network.factor, network.network_dim) == ("lokr", True, 4, None)


def test_whose_preset_it_is() -> None:
    assert is_foreign(ONETRAINER) and not is_foreign({"training_method": "LORA"})
    assert not is_foreign({"job": "x", "config": {}}) and not is_foreign({"config": {"process": []}})


@pytest.mark.parametrize("odd", [None, [], "x", 3, {}])
def test_an_odd_preset_is_no_crash(odd: Any) -> None:
    for name in ("concepts", "samples", "unet", "optimizer", "learning_rate_warmup_steps", "resolution", "epochs"):
        for _ in import_options({"training_method": "LORA", "model_type": "X", name: odd}).lines():
            pass
    for name in ("network", "datasets", "train", "sample", "model", "save"):
        process = {"type": "sd_trainer", name: odd}
        [*import_options({"job": "train", "config": {"process": [process, odd]}}).lines()]


def test_yaml_is_plain_data_or_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("train: {seed: 3}\n", encoding="utf-8")
    assert read_options(path)[0].train.seed == 3
    for text in ("!!python/object/apply:os.system ['true']", "a: &a [1]\nb: *a", "a: [", "- 1"):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(LoraTrainError, match="not YAML"):
            read_options(path)
    monkeypatch.setitem(__import__("sys").modules, "yaml", None)
    with pytest.raises(LoraTrainError, match="pip install pyyaml"):
        yamls.read_yaml("a: 1", "x")

"""Each field of a LoRA's metadata says what its own option was: values that no other option has."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

import lora_train
from lora_train.config import DataOptions, ModelOptions, NetworkOptions, RunConfig, SaveOptions, TrainOptions
from lora_train.lorafile.metadata import NOT_OFFERED, TrainingFacts, lora_metadata

CONFIG = RunConfig(
    model=ModelOptions(path="base.safetensors", clip_skip=2),
    data=DataOptions(
        resolution=704,
        train_batch_size=3,
        min_bucket_reso=320,
        max_bucket_reso=1408,
        bucket_no_upscale=True,
        flip_aug=True,
        shuffle_caption=True,
        keep_tokens=4,
        caption_dropout_rate=0.15,
        caption_tag_dropout_rate=0.35,
        caption_dropout_every_n_epochs=3,
        max_token_length=225,
        validation_split=0.2,
        validation_seed=17,
    ),
    network=NetworkOptions(
        network_dim=12, network_alpha=7.0, network_dropout=0.21, rank_dropout=0.31, scale_weight_norms=0.9
    ),
    train=TrainOptions(
        max_train_steps=1111,
        gradient_accumulation_steps=5,
        learning_rate=0.001,
        unet_lr=0.002,
        text_encoder_lr=0.003,
        weight_decay=0.04,
        lr_scheduler="linear",
        lr_warmup_steps=66,
        max_grad_norm=0.8,
        min_snr_gamma=5.5,
        gradient_checkpointing=True,
        base_precision="fp8",
        preserve=0.25,
        noise_offset=0.07,
        mixed_precision="bf16",
        seed=4242,
        prior_loss_weight=0.45,
    ),
    save=SaveOptions(output_name="sara", training_comment="a comment"),
)
FACTS = TrainingFacts(
    config=CONFIG,
    steps=999,
    epoch=6,
    batches_per_epoch=88,
    pictures=44,
    looks_per_epoch=264,
    buckets={(704, 640): 17, (640, 704): 27},
    folders={"10_sara": (10, 44)},
    tag_frequency={"10_sara": {"hat": 2}},
    base_version="sd_v2_v",
    architecture="stable-diffusion-v2-768-v/lora",
    implementation="diffusers",
    prediction_type="v_prediction",
    zero_terminal_snr=True,
    base_name="base.safetensors",
    base_hashes={"ss_sd_model_hash": "12345678", "ss_new_sd_model_hash": "abcdef"},
    started_at=1_700_000_000.25,
    finished_at=1_700_003_600.75,
    session="20231114-sara-1a2b",
    trigger="sks",
    reg_folders={"1_woman": (3, 80)},
    reg_looks_per_epoch=240,
    held_out=6,
    extra={"ss_network_weights": "before.safetensors"},
)
EXPECTED: dict[str, str] = {
    "ss_session_id": "20231114-sara-1a2b",
    "ss_training_started_at": "1700000000.25",
    "ss_training_finished_at": "1700003600.75",
    "ss_output_name": "sara",
    "ss_training_comment": "a comment",
    "ss_sd_scripts_commit_hash": f"lora-train {lora_train.__version__}",
    "ss_sd_model_name": "base.safetensors",
    "ss_base_model_version": "sd_v2_v",
    "ss_v2": "True",
    "ss_num_train_images": "264",
    "ss_num_reg_images": "240",
    "ss_num_batches_per_epoch": "88",
    "ss_num_epochs": "6",
    "ss_epoch": "6",
    "ss_dataset_dirs": '{"10_sara": {"n_repeats": 10, "img_count": 44}}',
    "ss_reg_dataset_dirs": '{"1_woman": {"n_repeats": 3, "img_count": 80}}',
    "ss_tag_frequency": '{"10_sara": {"hat": 2}}',
    "ss_bucket_info": json.dumps(
        {"buckets": {"0": {"resolution": [640, 704], "count": 27}, "1": {"resolution": [704, 640], "count": 17}}}
    ),
    "ss_resolution": "(704, 704)",
    "ss_enable_bucket": "True",
    "ss_bucket_no_upscale": "True",
    "ss_min_bucket_reso": "320",
    "ss_max_bucket_reso": "1408",
    "ss_batch_size_per_device": "3",
    "ss_total_batch_size": "3",
    "ss_flip_aug": "True",
    "ss_color_aug": "False",
    "ss_random_crop": "False",
    "ss_shuffle_caption": "True",
    "ss_keep_tokens": "4",
    "ss_caption_dropout_rate": "0.15",
    "ss_caption_tag_dropout_rate": "0.35",
    "ss_caption_dropout_every_n_epochs": "3",
    "ss_validation_split": "0.2",
    "ss_validation_seed": "17",
    "ss_num_validation_images": "6",
    "ss_max_token_length": "225",
    "ss_cache_latents": "True",
    "ss_network_module": "networks.lora",
    "ss_network_dim": "12",
    "ss_network_alpha": "7.0",
    "ss_network_dropout": "0.21",
    "ss_scale_weight_norms": "0.9",
    "ss_network_args": '{"rank_dropout": "0.31"}',
    "ss_network_weights": "before.safetensors",
    "ss_steps": "999",
    "ss_max_train_steps": "1111",
    "ss_gradient_accumulation_steps": "5",
    "ss_gradient_checkpointing": "True",
    "ss_fp8_base": "True",
    "ss_fp8_base_unet": "True",
    "ss_preserve": "0.25",
    "ss_learning_rate": "0.001",
    "ss_unet_lr": "0.002",
    "ss_text_encoder_lr": "0.003",
    "ss_optimizer": "torch.optim.adamw.AdamW(weight_decay=0.04)",
    "ss_lr_scheduler": "linear",
    "ss_lr_warmup_steps": "66",
    "ss_max_grad_norm": "0.8",
    "ss_min_snr_gamma": "5.5",
    "ss_noise_offset": "0.07",
    "ss_loss_type": "l2",
    "ss_mixed_precision": "bf16",
    "ss_seed": "4242",
    "ss_clip_skip": "2",
    "ss_prior_loss_weight": "0.45",
    "ss_zero_terminal_snr": "True",
    "ss_sd_model_hash": "12345678",
    "ss_new_sd_model_hash": "abcdef",
    "modelspec.sai_model_spec": "1.0.1",
    "modelspec.architecture": "stable-diffusion-v2-768-v/lora",
    "modelspec.implementation": "diffusers",
    "modelspec.implementation_version": f"lora-train/{lora_train.__version__}",
    "modelspec.title": "sara",
    "modelspec.resolution": "704x704",
    "modelspec.date": "2023-11-14T23:13:20",
    "modelspec.prediction_type": "v",
    "modelspec.trigger_phrase": "sks",
}


def test_every_field_says_what_its_own_option_was() -> None:
    found = lora_metadata(FACTS)
    assert {name: found.get(name) for name in EXPECTED} == EXPECTED
    rest = {name: value for name, value in found.items() if name not in EXPECTED}
    assert rest == {name: str(value) for name, value in NOT_OFFERED.items() if name not in EXPECTED}


@pytest.mark.parametrize(
    ("group", "options", "expected"),
    [
        ("train", {"mixed_precision": "fp32"}, {"ss_mixed_precision": "no"}),
        ("train", {"noise_offset": 0.0}, {"ss_noise_offset": "None"}),
        ("train", {"text_encoder_lr2": 0.5}, {"ss_text_encoder_lr": "[0.003, 0.5]"}),
        ("train", {"text_encoder_lr1": 0.0}, {"ss_text_encoder_lr": "[0.0, 0.003]"}),
        ("network", {"network_train_unet_only": True}, {"ss_text_encoder_lr": "None", "ss_unet_lr": "0.002"}),
        ("network", {"network_train_text_encoder_only": True}, {"ss_text_encoder_lr": "0.003", "ss_unet_lr": "None"}),
        ("network", {"init_lora_weights": "pissa"}, {"ss_network_dim": "24", "ss_network_alpha": "14.0"}),
        ("network", {"base_weights": ("/a/x.safetensors", "y.pt"), "base_weights_multiplier": (0.5,)},
         {"ss_base_weights": '[["x.safetensors", 0.5], ["y.pt", 1.0]]'}),
        ("model", {"clip_skip": 1}, {"ss_clip_skip": "None"}),
        ("save", {"training_comment": ""}, {"ss_training_comment": "None"}),
    ],
)  # fmt: skip
def test_what_is_off_or_told_in_another_way(group: str, options: dict[str, Any], expected: dict[str, str]) -> None:
    config = replace(CONFIG, **{group: replace(getattr(CONFIG, group), **options)})
    found = lora_metadata(replace(FACTS, config=config))
    assert {name: found[name] for name in expected} == expected

"""Options without effect are said."""

from __future__ import annotations

from typing import Any

import pytest

from lora_train.config import RunConfig, idle_notes


def notes(**groups: dict[str, Any]) -> list[str]:
    return idle_notes(RunConfig.from_dict(groups))


@pytest.mark.parametrize(
    ("groups", "field", "needed"),
    [
        ({"data": {"keep_tokens": 2}}, "data.keep_tokens", {"data": {"shuffle_caption": True}}),
        ({"data": {"keep_tokens": 2}}, "data.keep_tokens", {"data": {"caption_tag_dropout_rate": 0.1}}),
        ({"data": {"secondary_separator": ";"}}, "data.secondary_separator", {"data": {"token_warmup_step": 9.0}}),
        ({"data": {"keep_tokens_separator": "|||"}}, "data.keep_tokens_separator",
         {"data": {"shuffle_caption": True}}),
        ({"data": {"token_warmup_min": 2}}, "data.token_warmup_min", {"data": {"token_warmup_step": 9.0}}),
        ({"data": {"dataset_config": "a.toml", "reg_data_dir": "reg"}}, "data.reg_data_dir",
         {"data": {"dataset_config": ""}}),
        ({"train": {"unmasked_weight": 0.1}}, "train.unmasked_weight", {"train": {"masked_loss": True}}),
        ({"train": {"normalize_masked_area_loss": True}}, "train.normalize_masked_area_loss",
         {"train": {"masked_loss": True}}),
        ({"data": {"validation_seed": 3}}, "data.validation_seed", {"data": {"validation_split": 0.1}}),
        ({"preview": {"sample_every_n_steps": 5}}, "preview.sample_every_n_steps", {"preview": {"prompts": ["a"]}}),
        ({"network": {"conv_alpha": 1.0}}, "network.conv_alpha", {"network": {"conv_dim": 4}}),
        ({"data": {"bucket_no_upscale": True, "min_bucket_reso": 64}}, "data.min_bucket_reso",
         {"data": {"bucket_no_upscale": False}}),
        ({"data": {"dataset_config": "a.toml", "repeats": 3}}, "data.repeats", {"data": {"dataset_config": ""}}),
        ({"network": {"network_train_unet_only": True}, "train": {"text_encoder_lr": 1e-4}}, "train.text_encoder_lr",
         {"network": {"network_train_unet_only": False}}),
        ({"network": {"network_train_text_encoder_only": True}, "train": {"unet_lr": 1e-4}}, "train.unet_lr",
         {"network": {"network_train_text_encoder_only": False}}),
        ({"train": {"lr_warmup_steps": 100, "max_train_steps": 100}}, "train.lr_warmup_steps",
         {"train": {"max_train_steps": 101}}),
    ],
)  # fmt: skip
def test_what_has_no_effect(groups: dict[str, Any], field: str, needed: dict[str, Any]) -> None:
    (note,) = notes(**groups)
    assert note.startswith(f"{field} ")
    both = {name: {**groups.get(name, {}), **needed.get(name, {})} for name in {*groups, *needed}}
    assert notes(**both) == []


def test_a_usual_run_has_no_such_note() -> None:
    assert notes() == []

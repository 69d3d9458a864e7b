"""What a base predicts, how that is known, and which options mean nothing for it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from lora_train.config import RunConfig
from lora_train.models.opening import native_resolution, open_model, refusals
from lora_train.models.prediction import Assumed
from tests.models.tiny import tiny_sd2, tiny_sdxl, write_checkpoint, write_folder


@pytest.mark.parametrize(
    ("make", "name", "metadata", "keys", "expected"),
    [
        (tiny_sd2, "v2-1_512-ema-pruned", {}, (), ("epsilon", "sd_v2", 512)),
        (tiny_sd2, "v2-1_768-ema-pruned", {}, (), ("v_prediction", "sd_v2_v", 768)),
        (tiny_sd2, "mine", {}, (), ("v_prediction", "sd_v2_v", 768)),
        (tiny_sd2, "768", {"modelspec.prediction_type": "epsilon"}, (), ("epsilon", "sd_v2", 512)),
        (tiny_sd2, "mine", {"modelspec.architecture": "stable-diffusion-v2-512"}, (), ("epsilon", "sd_v2", 512)),
        (tiny_sdxl, "mine", {}, (), ("epsilon", "sdxl_base_v1-0", 1024)),
        (tiny_sdxl, "mine", {"modelspec.prediction_type": "v"}, (), ("v_prediction", "sdxl_base_v1-0", 1024)),
        (tiny_sdxl, "mine", {"modelspec.predict_key": "v"}, (), ("v_prediction", "sdxl_base_v1-0", 1024)),
        (tiny_sdxl, "mine", {}, ("v_pred",), ("v_prediction", "sdxl_base_v1-0", 1024)),
    ],
)
def test_prediction_types(
    make: Any, name: str, metadata: Any, keys: Any, expected: tuple[str, str, int], tmp_path: Path
) -> None:
    file = write_checkpoint(make(), tmp_path / f"{name}.safetensors", metadata, keys)
    model = open_model(file)
    assert native_resolution(file) == expected[2]
    assert (model.prediction_type, model.version, model.native_resolution) == expected
    assert model.zero_terminal_snr is False
    assert bool(model.notes) == (expected[0] == "v_prediction" or name == "v2-1_512-ema-pruned")


def test_noobais_keys_mean_v_and_zero_terminal_snr(tmp_path: Path) -> None:
    model = open_model(write_checkpoint(tiny_sdxl(), tmp_path / "noob.safetensors", keys=("v_pred", "ztsnr")))
    assert model.prediction_type == "v_prediction" and model.zero_terminal_snr
    assert "v_pred" in model.notes[0]
    assert float(model.snr(torch.tensor([999]))) == 0


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ({"parameterization": "v"}, "v_prediction"),
        ({}, "epsilon"),
        ({"denoiser_config": {"params": {"scaling_config": {"target": "sgm.x.VScaling"}}}}, "v_prediction"),
        ({"denoiser_config": {"params": {"scaling_config": {"target": "sgm.x.EpsScaling"}}}}, "epsilon"),
    ],
)
def test_the_yaml_says_what_is_predicted(params: dict[str, Any], expected: str, tmp_path: Path) -> None:
    file = write_checkpoint(tiny_sdxl(), tmp_path / "one.safetensors")
    file.with_suffix(".yaml").write_text(json.dumps({"model": {"params": {"timesteps": 1000} | params}}))
    assert open_model(file).prediction_type == expected


def test_the_64_in_stabilitys_yaml_for_768_pixels_means_nothing(tmp_path: Path) -> None:
    file = write_checkpoint(tiny_sd2(), tmp_path / "one.safetensors")
    for said, expected in (({"parameterization": "v", "image_size": 64}, 768), ({"image_size": 16}, 128)):
        file.with_suffix(".yaml").write_text(json.dumps({"model": {"params": said}}))
        assert open_model(file).native_resolution == native_resolution(file) == expected


def test_a_person_has_the_last_word(tmp_path: Path) -> None:
    tiny = tiny_sd2()
    file, folder = write_checkpoint(tiny, tmp_path / "768.safetensors"), write_folder(tiny, tmp_path / "folder")
    for path in (file, folder):
        model = open_model(path, assumed=Assumed(v_parameterization=False))
        assert model.prediction_type == "epsilon" and model.architecture == "stable-diffusion-v2-512/lora"
        assert "as model.v_parameterization says" in model.notes[0]


def test_a_folder_says_it_itself(tmp_path: Path) -> None:
    model = open_model(write_folder(tiny_sdxl("v_prediction", zero_terminal_snr=True), tmp_path / "folder"))
    assert model.prediction_type == "v_prediction" and model.zero_terminal_snr and model.notes == ()


# options that mean nothing


def _config(**groups: Any) -> RunConfig:
    return RunConfig.from_dict(groups)


@pytest.mark.parametrize(
    ("make", "config", "where"),
    [
        (tiny_sdxl, {"model": {"clip_skip": 3}}, "model.clip_skip"),
        (tiny_sdxl, {"train": {"zero_terminal_snr": True}}, "train.zero_terminal_snr"),
        (tiny_sd2, {"train": {"text_encoder_lr1": 1e-5}}, "train.text_encoder_lr1"),
        (tiny_sd2, {"model": {"v_parameterization": False}, "train": {"zero_terminal_snr": True}}, "train.zero_"),
    ],
)
def test_options_that_mean_nothing_are_refused(make: Any, config: Any, where: str, tmp_path: Path) -> None:
    found = refusals(write_checkpoint(make(), tmp_path / "one.safetensors"), _config(**config))
    assert [problem.where.startswith(where) for problem in found] == [True]
    assert found[0].fix


@pytest.mark.parametrize(
    ("make", "config"),
    [
        (tiny_sdxl, {"model": {"clip_skip": 2}, "train": {"text_encoder_lr1": 1e-5, "text_encoder_lr2": 0.0}}),
        (tiny_sdxl, {"model": {"v_parameterization": True}, "train": {"zero_terminal_snr": True}}),
        (tiny_sdxl, {"model": {"v_parameterization": False}}),
        (tiny_sd2, {"model": {"clip_skip": 2}, "train": {"zero_terminal_snr": True}}),
    ],
)
def test_options_that_mean_something_are_not(make: Any, config: Any, tmp_path: Path) -> None:
    file = write_checkpoint(make(), tmp_path / "one.safetensors", keys=("v_pred", "ztsnr"))
    assert refusals(file, _config(**config)) == []

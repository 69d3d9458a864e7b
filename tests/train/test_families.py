"""Runs on small SD 2.x and SDXL models, from the files to the LoRA."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from lora_train.config import RunConfig
from lora_train.data.buckets import cut, place
from lora_train.data.items import Item
from lora_train.data.scan import Picture
from lora_train.errors import LoraTrainError
from lora_train.hosts.standalone import StandaloneHost
from lora_train.lorafile.reading import read_lora
from lora_train.models.ddpm import NoiseProcess
from lora_train.models.sdxl import StableDiffusionXL
from lora_train.runs.execute import resume_training, run_training
from lora_train.runs.folder import RunFolder
from lora_train.train.rates import learning_rates
from tests.conftest import draw_pictures
from tests.models.tiny import tiny_sd2, tiny_sdxl, write_checkpoint, write_folder

Make = Callable[..., RunConfig]
SMALL = {"resolution": 64, "min_bucket_reso": 32, "max_bucket_reso": 128, "bucket_reso_steps": 32}


@pytest.fixture
def small_run(make_config: Make, tmp_path: Path) -> Make:
    """A run of two steps at 64 pixels on pictures of two shapes."""
    folder = draw_pictures(tmp_path / "wide", 4, ((150, 90), (300, 90)))

    def make(path: Path, **groups: dict[str, Any]) -> RunConfig:
        config = make_config(
            model={"path": str(path)} | groups.get("model", {}),
            data=SMALL | {"folder": str(folder), "flip_aug": True},
            network={"network_dim": 2, "network_alpha": 1.0} | groups.get("network", {}),
            train={"max_train_steps": 2} | groups.get("train", {}),
            save={"save_precision": "fp32"},
        )
        preview = {"prompts": ["sks on blue"], "steps": 2} | groups.get("preview", {})
        return RunConfig.from_dict(config.to_dict() | {"preview": preview})

    return make


def test_sdxl_from_a_file(small_run: Make, host: StandaloneHost, tmp_path: Path) -> None:
    result = run_training(small_run(write_checkpoint(tiny_sdxl(), tmp_path / "xl.safetensors")), host)
    assert result.path is not None
    file = read_lora(result.path)
    for prefix in ("lora_unet_input_blocks_", "lora_te1_text_model_", "lora_te2_text_model_"):
        ups = [v for k, v in file.tensors.items() if k.startswith(prefix) and k.endswith("lora_up.weight")]
        assert ups and max(float(v.abs().max()) for v in ups) > 0, prefix
    told = file.metadata
    assert told["ss_base_model_version"] == "sdxl_base_v1-0" and told["ss_v2"] == "False"
    assert told["modelspec.architecture"] == "stable-diffusion-xl-v1-base/lora"
    assert told["modelspec.implementation"] == "https://github.com/Stability-AI/generative-models"
    assert told["modelspec.prediction_type"] == "epsilon"
    assert sorted(p.name for p in (result.folder / "samples").iterdir()) == ["step00000000-0.png", "step00000002-0.png"]


def test_sd2_v_from_a_folder_and_a_file_give_the_same_lora(
    small_run: Make, host: StandaloneHost, tmp_path: Path
) -> None:
    tiny = tiny_sd2()
    found = []
    for path in (write_folder(tiny, tmp_path / "folder"), write_checkpoint(tiny, tmp_path / "768.safetensors")):
        config = small_run(path, train={"min_snr_gamma": 5.0, "zero_terminal_snr": True})
        result = run_training(config, StandaloneHost(tmp_path / path.stem))
        assert result.path is not None
        found.append(read_lora(result.path))
        notes = [e["text"] for e in RunFolder(result.folder).events() if e["kind"] == "note"]
        assert any("assumed from the 768 in its name" in text for text in notes) == path.is_file()
        result.path.unlink()
    told = found[0].metadata
    assert told["ss_base_model_version"] == "sd_v2_v" and told["ss_v2"] == "True"
    assert told["modelspec.architecture"] == "stable-diffusion-v2-768-v/lora"
    assert told["modelspec.prediction_type"] == "v" and told["ss_zero_terminal_snr"] == "True"
    one, other = (file.tensors for file in found)
    assert one.keys() == other.keys()
    assert all(torch.allclose(one[key], other[key], atol=1e-5) for key in one)
    assert {key.split("_text_model")[0] for key in one if "text_model" in key} == {"lora_te"}


def test_the_same_seed_gives_the_same_bits(small_run: Make, tmp_path: Path) -> None:
    path = write_checkpoint(tiny_sdxl("v_prediction"), tmp_path / "xl.safetensors", keys=("v_pred", "ztsnr"))
    found = []
    for name in ("one", "two"):
        result = run_training(small_run(path, preview={"prompts": []}), StandaloneHost(tmp_path / name))
        assert result.path is not None
        found.append(read_lora(result.path).tensors)
        result.path.unlink()
    assert all(torch.equal(found[0][key], found[1][key]) for key in found[0])


def test_a_stopped_run_goes_on_with_the_same_bits(small_run: Make, tmp_path: Path) -> None:
    """The last layer of SDXL's first encoder has no gradient and no optimizer state."""
    path = write_checkpoint(tiny_sdxl(), tmp_path / "xl.safetensors")
    config = small_run(path, train={"max_train_steps": 3}, preview={"prompts": []})
    whole = run_training(config, StandaloneHost(tmp_path / "a")).path
    assert whole is not None
    expected = read_lora(whole).tensors
    whole.unlink()
    seen: list[str] = []
    host = StandaloneHost(tmp_path / "b")
    first = run_training(config, host, lambda e: seen.append(e["kind"]), lambda: "step" in seen)
    assert first.stopped and first.steps == 1
    last = resume_training(RunFolder(first.folder), host).path
    assert last is not None
    found = read_lora(last).tensors
    assert all(torch.equal(found[key], expected[key]) for key in expected)


def test_each_text_encoder_has_its_rate(small_run: Make, host: StandaloneHost, tmp_path: Path) -> None:
    path = write_checkpoint(tiny_sdxl(), tmp_path / "xl.safetensors")
    config = small_run(path, train={"text_encoder_lr1": 0.0, "text_encoder_lr2": 3e-5}, preview={"prompts": []})
    result = run_training(config, host)
    assert result.path is not None
    file = read_lora(result.path)
    assert not [key for key in file.tensors if key.startswith("lora_te1_")]
    assert [key for key in file.tensors if key.startswith("lora_te2_")]
    assert file.metadata["ss_text_encoder_lr"] == "[0.0, 3e-05]"
    step = next(e for e in RunFolder(result.folder).events() if e["kind"] == "step")
    assert step["learning_rates"].keys() == {"lora_unet", "lora_te2"}


def test_learning_rates() -> None:
    def rates(prefixes: tuple[str, ...], network: dict[str, Any], **train: Any) -> dict[str, float]:
        groups = {"train": {"unet_lr": 1.0, "text_encoder_lr": 0.5} | train, "network": network}
        return learning_rates(RunConfig.from_dict(groups), prefixes)

    two = ("lora_te1", "lora_te2")
    assert rates(("lora_te",), {}) == {"lora_unet": 1.0, "lora_te": 0.5}
    assert rates(two, {}) == {"lora_unet": 1.0, "lora_te1": 0.5, "lora_te2": 0.5}
    assert rates(two, {}, text_encoder_lr2=0.25) == {"lora_unet": 1.0, "lora_te1": 0.5, "lora_te2": 0.25}
    assert rates(two, {"network_train_unet_only": True}, text_encoder_lr2=0.25) == {"lora_unet": 1.0}
    assert rates(two, {"network_train_text_encoder_only": True}, text_encoder_lr1=0.0) == {"lora_te2": 0.5}


def test_what_means_nothing_is_told_with_the_rest(small_run: Make, host: StandaloneHost, tmp_path: Path) -> None:
    path = write_checkpoint(tiny_sdxl(), tmp_path / "xl.safetensors")
    config = small_run(path, model={"clip_skip": 5}, train={"zero_terminal_snr": True, "max_train_steps": 0})
    with pytest.raises(LoraTrainError) as caught:
        run_training(config, host)
    where = {problem.where for problem in caught.value.problems}
    assert where == {"model.clip_skip", "train.zero_terminal_snr", "train.max_train_steps"}


def test_the_model_is_told_how_each_picture_was_cut(
    small_run: Make, host: StandaloneHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """(original h, w, top, left, target h, w): 150x90 is scaled to 107x64 and cut to 64x64, 300x90 to 107x32 and
    to 96x32; 21 and 22, or 5 and 6 columns go on the sides, the other way round when flipped."""
    seen: list[list[float]] = []
    predict = StableDiffusionXL.predict

    def spy(self: Any, noisy: torch.Tensor, t: torch.Tensor, conditioning: Any) -> torch.Tensor:
        seen.extend(conditioning["time_ids"].tolist())
        assert [row[4:] for row in conditioning["time_ids"].tolist()] == [[s * 8 for s in noisy.shape[2:]]] * len(noisy)
        return predict(self, noisy, t, conditioning)

    monkeypatch.setattr(StableDiffusionXL, "predict", spy)
    path = write_checkpoint(tiny_sdxl(), tmp_path / "xl.safetensors")
    run_training(small_run(path, train={"max_train_steps": 8}, preview={"prompts": []}), host)
    expected = [[90, 150, 0, left, 64, 64] for left in (21, 22)] + [[90, 300, 0, left, 32, 96] for left in (5, 6)]
    assert sorted({tuple(row) for row in seen}) == sorted(map(tuple, expected))


@pytest.mark.parametrize("size", [(150, 90), (90, 151), (64, 64), (333, 100)])
def test_a_frame_is_the_real_cut(size: tuple[int, int]) -> None:
    """Cutting the scaled picture (mirrored or not) at the frame's place gives what is trained on."""
    placement = place(size, [(64, 64), (96, 32), (32, 96)])
    noise = Image.effect_noise(size, 90).convert("RGB")
    item = Item(Picture(Path("x.png"), *size, "", "", 1), placement, ("a", "b"))
    plain, mirrored = cut(noise, placement), cut(noise, placement).transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    reduce = placement.scaled[0] < size[0]
    how = Image.Resampling.LANCZOS if reduce else Image.Resampling.BICUBIC
    scaled = noise.resize(placement.scaled, how) if noise.size != placement.scaled else noise
    for flipped, expected in ((False, plain), (True, mirrored)):
        frame = item.frame(flipped)
        whole = scaled.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if flipped else scaled
        left, top = frame.crop
        found = whole.crop((left, top, left + frame.target[0], top + frame.target[1]))
        assert found.tobytes() == expected.tobytes()
        assert (frame.original, frame.target) == (size, placement.bucket)


def test_zero_terminal_snr_equals_diffusers() -> None:
    from diffusers import DDPMScheduler

    betas = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    theirs = DDPMScheduler(**betas, prediction_type="v_prediction", rescale_betas_zero_snr=True)
    ours = NoiseProcess.of_config({**betas, "prediction_type": "v_prediction", "rescale_betas_zero_snr": True})
    assert torch.allclose(ours.alphas_cumprod, theirs.alphas_cumprod, atol=1e-6)
    x, noise, last = torch.randn(1, 4, 2, 2), torch.randn(1, 4, 2, 2), torch.tensor([999])
    assert torch.equal(ours.noised(x, noise, last), noise)
    assert torch.equal(ours.target(x, noise, last), -x)
    plain = NoiseProcess.of_config(betas)
    assert torch.isclose(ours.alphas_cumprod[0], plain.alphas_cumprod[0])

"""LoRAs in prompts on SD 2.x and SDXL, with diffusers as the witness."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lora_train.lorafile.applying import Applier, modules_by_file_name
from lora_train.lorafile.reading import read_lora
from lora_train.lorafile.writing import write_lora
from lora_train.models.names import UnetNames
from lora_train.models.opening import open_model
from lora_train.networks.base import Form
from lora_train.networks.inject import create_networks
from lora_train.prompt.generate import Generator
from lora_train.prompt.syntax import LoraTag
from tests.models.pipelines import pipeline_of
from tests.models.tiny import tiny_sd2, tiny_sdxl, write_folder

PROMPT = "red star on blue"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {
        "sd2": write_folder(tiny_sd2(), root / "sd2"),
        "sdxl": write_folder(tiny_sdxl(), root / "sdxl"),
        "sdxl_v": write_folder(tiny_sdxl("v_prediction", zero_terminal_snr=True), root / "sdxl_v"),
    }


@pytest.fixture(scope="module")
def loras(models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("loras")
    for name in ("sd2", "sdxl"):
        model = open_model(models[name])
        generator = torch.Generator().manual_seed(0)
        prefixes = ("lora_unet", *model.text_prefixes)
        networks = create_networks(model, "lora", Form(4, 4.0), generator, prefixes, Form(2, 2.0))
        for network in networks.networks.values():
            network.up.data.normal_(std=0.1, generator=generator)
        write_lora(folder / f"{name}.safetensors", networks.file_tensors(), {}, "fp32", overwrite=True)
    return folder


def _pipeline(folder: Path) -> Any:
    pipeline, model = pipeline_of(folder)
    pipeline.scheduler = type(pipeline.scheduler).from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.ours = model
    return pipeline


def _draw(pipeline: Any, **more: Any) -> np.ndarray:
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    options = {"num_inference_steps": 4, "guidance_scale": 4.0, "height": 64, "width": 64} | more
    return np.asarray(pipeline(PROMPT, latents=noise, output_type="np", **options).images[0])


@pytest.mark.parametrize("name", ["sd2", "sdxl", "sdxl_v"])
def test_the_picture_without_networks_equals_diffusers(models: dict[str, Path], loras: Path, name: str) -> None:
    """Sampler, guidance, sizes and empty negative prompt: SD 2.x with v, SDXL with noise and with v."""
    pipeline = _pipeline(models[name])
    if name != "sd2":
        pipeline.register_to_config(force_zeros_for_empty_prompt=True)
    expected = _draw(pipeline, guidance_rescale=0.7 if name == "sdxl_v" else 0.0)
    found = Generator(open_model(models[name]), loras).generate(PROMPT, [3], steps=4, guidance=4.0, size=(64, 64))
    assert expected.std() > 2 / 255
    assert np.abs(np.asarray(found.pictures[0]) / 255 - expected).max() <= 2 / 255


@pytest.mark.parametrize("name", ["sd2", "sdxl"])
def test_the_picture_equals_diffusers(models: dict[str, Path], loras: Path, name: str) -> None:
    """The same file through diffusers' load_lora_weights, our Applier on a pipeline, and our own sampler."""
    from diffusers.utils import USE_PEFT_BACKEND

    if not USE_PEFT_BACKEND:
        pytest.skip("diffusers loads LoRAs only with newer transformers than the WebUI's 4.30.2")
    plain = _draw(_pipeline(models[name]))
    theirs = _pipeline(models[name])
    theirs.load_lora_weights(str(loras), weight_name=f"{name}.safetensors")
    expected = _draw(theirs)
    ours = _pipeline(models[name])
    applied = Applier(modules_by_file_name(ours)).apply([(LoraTag(name, 1.0, 1.0), loras / f"{name}.safetensors")])
    assert applied[0].unmatched == ()
    assert np.abs(expected - plain).max() > 10 / 255
    assert np.abs(expected - _draw(ours)).max() <= 2 / 255
    made = Generator(open_model(models[name]), loras).generate(
        f"{PROMPT} <lora:{name}:1>", [3], steps=4, guidance=4.0, size=(64, 64)
    )
    assert made.notes == []
    assert np.abs(np.asarray(made.pictures[0]) / 255 - expected).max() <= 2 / 255


def test_sdxl_files_with_diffusers_block_names_are_the_same(
    models: dict[str, Path], loras: Path, tmp_path: Path
) -> None:
    """One file in each naming on one model: the strengths add, and removing restores every bit."""
    model: Any = open_model(models["sdxl"])
    sgm, plain = (UnetNames(model.unet, sgm=sgm) for sgm in (True, False))
    names = {sgm.of(path): plain.of(path) for path, _ in model.unet.named_modules()}
    tensors = {}
    for key, value in read_lora(loras / "sdxl.safetensors").tensors.items():
        module, part = key.split(".", 1)
        tensors[f"{names.get(module, module)}.{part}"] = value
    other = tmp_path / "other.safetensors"
    write_lora(other, tensors, {}, "fp32", overwrite=False)
    assert any("down_blocks_1_attentions" in key for key in tensors)
    before = {name: value.clone() for name, value in model.unet.state_dict().items()}
    applier = Applier(modules_by_file_name(model))

    def weights(*files: tuple[Path, float]) -> dict[str, torch.Tensor]:
        applier.apply([(LoraTag("x", strength, strength), file) for file, strength in files])
        return {name: value.clone() for name, value in model.unet.state_dict().items()}

    ours = loras / "sdxl.safetensors"
    twice, mixed = weights((ours, 1.0), (ours, 0.5)), weights((ours, 1.0), (other, 0.5))
    assert all(torch.equal(twice[name], mixed[name]) for name in before)
    assert any(not torch.equal(twice[name], before[name]) for name in before)
    applier.remove()
    assert all(torch.equal(value, before[name]) for name, value in model.unet.state_dict().items())


@pytest.mark.parametrize(("base", "lora", "named"), [("sd2", "sdxl", "SDXL"), ("sdxl", "sd2", "")])
def test_a_lora_for_another_base_is_refused_by_name(
    models: dict[str, Path], loras: Path, base: str, lora: str, named: str
) -> None:
    made = Generator(open_model(models[base]), loras).generate(f"{PROMPT} <lora:{lora}:1>", [1], steps=1, size=(64, 64))
    assert len(made.notes) == 1 and len(made.pictures) == 1
    assert made.notes[0].startswith(f"<lora:{lora}> is left out.")
    assert f"another base model{', ' + named if named else ''}" in made.notes[0]

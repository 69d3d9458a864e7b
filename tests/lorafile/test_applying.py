"""Applying networks, with diffusers as the witness."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lora_train.errors import LoraTrainError
from lora_train.lorafile.applying import Applier, modules_by_file_name
from lora_train.lorafile.finding import find_lora
from lora_train.lorafile.writing import write_lora
from lora_train.models.opening import open_model
from lora_train.networks.base import Form
from lora_train.networks.inject import create_networks
from lora_train.prompt.generate import Generator
from lora_train.prompt.syntax import LoraTag


def _write(base: Path, path: Path, seed: int = 0, std: float = 0.1, convolutions: bool = False) -> None:
    """A LoRA with random weights, strong enough to change the picture."""
    model = open_model(base)
    generator = torch.Generator().manual_seed(seed)
    networks = create_networks(
        model, "lora", Form(4, 4.0), generator, ("lora_unet", "lora_te"), Form(2, 2.0) if convolutions else None
    )
    for network in networks.networks.values():
        network.up.data.normal_(std=std, generator=generator)
    write_lora(path, networks.file_tensors(), {}, "fp16", overwrite=True)


@pytest.fixture(scope="module")
def loras(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("loras")
    for seed, name in enumerate(("one", "two")):
        _write(base, folder / f"{name}.safetensors", seed)
    _write(base, folder / "locon.safetensors", 2, 0.05, convolutions=True)
    return folder


def _pipeline(base: Path) -> Any:
    from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline
    from transformers import CLIPTokenizer

    model: Any = open_model(base)
    return StableDiffusionPipeline(
        vae=model.vae,
        text_encoder=model.text_encoder,
        tokenizer=CLIPTokenizer.from_pretrained(base / "tokenizer"),
        unet=model.unet,
        scheduler=DPMSolverMultistepScheduler.from_config(model.sampler(4).config),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def _draw(pipeline: Any, **more: Any) -> np.ndarray:
    pipeline.set_progress_bar_config(disable=True)
    noise = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(3))
    made = pipeline(
        "red star on blue", num_inference_steps=4, guidance_scale=4.0, latents=noise, output_type="np", **more
    )
    return np.asarray(made.images[0])


@pytest.mark.parametrize("name", ["one", "locon"])
def test_the_picture_equals_diffusers(base: Path, loras: Path, name: str) -> None:
    """The same file through diffusers' load_lora_weights, through our Applier on a pipeline, and through
    our own sampler: the same picture within 2/255."""
    from diffusers.utils import USE_PEFT_BACKEND

    if not USE_PEFT_BACKEND:
        pytest.skip("diffusers loads LoRAs only with newer transformers than the WebUI's 4.30.2")
    plain = _draw(_pipeline(base))
    theirs = _pipeline(base)
    theirs.load_lora_weights(str(loras), weight_name=f"{name}.safetensors")
    expected = _draw(theirs)
    ours = _pipeline(base)
    Applier(modules_by_file_name(ours)).apply([(LoraTag(name, 1.0, 1.0), loras / f"{name}.safetensors")])
    found = _draw(ours)
    assert np.abs(expected - plain).max() > 20 / 255
    assert np.abs(expected - found).max() <= 2 / 255
    generator = Generator(open_model(base), loras)
    picture = generator.generate(f"red star on blue <lora:{name}:1>", [3], steps=4, guidance=4.0).pictures[0]
    assert np.abs(np.asarray(picture) / 255 - expected).max() <= 2 / 255


def test_removing_restores_every_bit(base: Path, loras: Path) -> None:
    model: Any = open_model(base)
    before = {n: v.clone() for root in model.roots().values() for n, v in root.state_dict().items()}
    applier = Applier(modules_by_file_name(model))
    one, two = loras / "one.safetensors", loras / "two.safetensors"
    applier.apply([(LoraTag("one", 0.7, -0.3), one), (LoraTag("two", 1.0, 1.0), two)])
    applier.apply([(LoraTag("one", 1.0, 1.0), one), (LoraTag("one", 1.0, 1.0), one)])
    changed = {n: v for root in model.roots().values() for n, v in root.state_dict().items()}
    assert any(not torch.equal(before[n], changed[n]) for n in before)
    applier.remove()
    after = {n: v for root in model.roots().values() for n, v in root.state_dict().items()}
    assert all(torch.equal(before[n], after[n]) for n in before)


def test_a_file_that_was_overwritten_is_applied_anew(base: Path, tmp_path: Path) -> None:
    """Trained again under the same name while its tag stands in the prompt."""
    model: Any = open_model(base)
    plain = {n: v.clone() for n, v in model.unet.state_dict().items()}
    applier, path = Applier(modules_by_file_name(model)), tmp_path / "sara.safetensors"
    found = []
    for seed in (0, 1):
        _write(base, path, seed)
        os.utime(path, (1000 + seed, 1000 + seed))
        for _ in range(2):  # the second time nothing has to be done
            applied = applier.apply([(LoraTag("sara", 1.0, 1.0), path)])
        found.append((applied[0].short_hash, {n: v.clone() for n, v in model.unet.state_dict().items()}))
    (first_hash, first), (second_hash, second) = found
    assert first_hash != second_hash and any(not torch.equal(first[n], second[n]) for n in first)
    fresh: Any = open_model(base)
    Applier(modules_by_file_name(fresh)).apply([(LoraTag("sara", 1.0, 1.0), path)])
    assert all(torch.equal(v, second[n]) for n, v in fresh.unet.state_dict().items())
    applier.remove()
    assert all(torch.equal(v, plain[n]) for n, v in model.unet.state_dict().items())


def test_twice_is_double_and_parts_are_apart(base: Path, loras: Path) -> None:
    one = loras / "one.safetensors"

    def weights(*tags: LoraTag) -> dict[str, torch.Tensor]:
        model: Any = open_model(base)
        Applier(modules_by_file_name(model)).apply([(tag, one) for tag in tags])
        return {f"{p}.{n}": v for p, root in model.roots().items() for n, v in root.state_dict().items()}

    plain, double = weights(), weights(LoraTag("one", 2.0, 2.0))
    twice = weights(LoraTag("one", 1.0, 1.0), LoraTag("one", 1.0, 1.0))
    assert all(torch.allclose(double[n], twice[n], atol=1e-5) for n in double)
    te_only = weights(LoraTag("one", 1.0, 0.0))
    assert all(torch.equal(plain[n], te_only[n]) for n in plain if n.startswith("lora_unet"))
    assert any(not torch.equal(plain[n], te_only[n]) for n in plain if n.startswith("lora_te"))


def test_a_lora_for_another_base_is_named_and_leaves_nothing(base: Path, tmp_path: Path, loras: Path) -> None:
    other = tmp_path / "other.safetensors"
    name = "lora_unet_mid_block_attentions_0_proj_in"
    tensors = {f"{name}.lora_down.weight": torch.ones(2, 1280), f"{name}.lora_up.weight": torch.ones(1280, 2)}
    write_lora(other, tensors, {}, "fp16", overwrite=False)
    model: Any = open_model(base)
    before = {n: v.clone() for n, v in model.unet.state_dict().items()}
    tag = LoraTag("x", 1.0, 1.0)
    with pytest.raises(LoraTrainError, match="another base model"):
        Applier(modules_by_file_name(model)).apply([(tag, loras / "one.safetensors"), (tag, other)])
    assert all(torch.equal(before[n], v) for n, v in model.unet.state_dict().items())


def test_what_cannot_be_applied_is_noted_and_generation_goes_on(base: Path, loras: Path) -> None:
    generator = Generator(open_model(base), loras)
    made = generator.generate("red star <lora:missing:1> <lora:one:x>", [1], negative="<lora:two:1>", steps=1)
    assert len(made.pictures) == 1
    notes = "\n".join(made.notes)
    assert "missing" in notes and "'x' is not a number" in notes and "negative prompt" in notes


def test_files_are_found_by_name_in_sub_folders_too(tmp_path: Path) -> None:
    (tmp_path / "people").mkdir()
    (tmp_path / "people" / "Sara v1.2.safetensors").touch()
    for name in ("sara v1.2", "people/Sara v1.2", "Sara v1.2.safetensors"):
        assert find_lora(tmp_path, name).stem == "Sara v1.2"
    with pytest.raises(LoraTrainError, match=r"Sara v1\.2"):
        find_lora(tmp_path, "bob")

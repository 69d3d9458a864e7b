"""A VAE of its own, under every name that such files have: it computes what it computed where it came from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from lora_train.errors import LoraTrainError
from lora_train.models.ldm_keys import VAE_PREFIX
from lora_train.models.opening import open_model
from lora_train.models.vae import load_vae
from tests.models.tiny import checkpoint_tensors, tiny_sd1, write_folder


@pytest.fixture
def model(tmp_path: Path) -> Any:
    return open_model(write_folder(tiny_sd1(), tmp_path / "base"))


def bare(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {n[len(VAE_PREFIX) :]: value for n, value in tensors.items() if n.startswith(VAE_PREFIX)}


@pytest.mark.parametrize("form", ["checkpoint", "ldm", "pickle", "diffusers", "folder", "model"])
def test_it_is_read_in_every_form(model: Any, tmp_path: Path, form: str) -> None:
    other = tiny_sd1()
    with torch.no_grad():
        for parameter in other.vae.parameters():
            parameter.mul_(1.25)
    tensors, path = checkpoint_tensors(other), tmp_path / "other.safetensors"
    if form == "checkpoint":
        save_file(tensors, path)
    elif form == "ldm":
        save_file(bare(tensors) | {"loss.logvar": torch.zeros(1)}, path)
    elif form == "pickle":
        path = tmp_path / "other.vae.pt"
        torch.save({"state_dict": bare(tensors)}, path)
    elif form == "diffusers":
        save_file(other.vae.state_dict(), path)
    else:
        path = write_folder(other, tmp_path / "other") / ("vae" if form == "folder" else "")
    before = model.vae_hash
    model.use_vae(load_vae(path, model.vae))
    assert model.vae_hash != before
    pixels = torch.rand(1, 3, 32, 32) * 2 - 1
    with torch.no_grad():
        expected = other.vae.encode(pixels).latent_dist
        mean, std = model.encode_pictures(pixels)
    assert torch.allclose(mean, expected.mean, atol=1e-5) and torch.allclose(std, expected.std, atol=1e-5)
    assert not any(parameter.requires_grad for parameter in model.vae.parameters())


def test_what_does_not_fit_is_said(model: Any, tmp_path: Path) -> None:
    tensors = bare(checkpoint_tensors(tiny_sd1()))
    for name, content in (("other", {"a": torch.zeros(1)}), ("part", dict(list(tensors.items())[:-1]))):
        save_file(content, tmp_path / f"{name}.safetensors")
        with pytest.raises(LoraTrainError, match="no VAE for this base model"):
            load_vae(tmp_path / f"{name}.safetensors", model.vae)
    (tmp_path / "empty").mkdir()
    with pytest.raises(LoraTrainError, match="no VAE in this folder"):
        load_vae(tmp_path / "empty", model.vae)

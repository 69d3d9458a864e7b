"""Parts that are on the GPU only while they compute, and the VAE in tiles."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from lora_train.demo.files import base_folder
from lora_train.device import same_device
from lora_train.models import phases
from lora_train.models.opening import open_model
from lora_train.models.phases import at_work, in_tiles

CPU, GPU = torch.device("cpu"), torch.device("cuda:0")


@pytest.fixture
def moves(monkeypatch: pytest.MonkeyPatch) -> tuple[dict[int, torch.device], list[tuple[str, str]]]:
    """Where modules are said to be, and what is moved; there is one GPU, "cuda:0"."""
    places: dict[int, torch.device] = {}
    moved: list[tuple[str, str]] = []

    def move(module: Any, device: torch.device) -> None:
        moved.append((type(module).__name__, device.type))
        places[id(module)] = device

    monkeypatch.setattr(phases, "place_of", lambda module: places[id(module)])
    monkeypatch.setattr(phases, "move", move)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    return places, moved


def test_what_waits_comes_in_and_goes_back_and_what_is_there_stays(moves: Any) -> None:
    places, moved = moves
    waiting, there = nn.Linear(1, 1), nn.Conv2d(1, 1, 1)
    places.update({id(waiting): CPU, id(there): GPU})
    with at_work(torch.device("cuda"), [waiting, there]):
        assert moved == [("Linear", "cuda")]
        with at_work(GPU, [waiting, there]):
            pass
        assert len(moved) == 1  # the inner block changes nothing
    assert moved == [("Linear", "cuda"), ("Linear", "cpu")]


def test_it_goes_back_when_computing_fails(moves: Any) -> None:
    places, moved = moves
    waiting = nn.Linear(1, 1)
    places[id(waiting)] = CPU
    with pytest.raises(ValueError, match="anything"), at_work(GPU, [waiting]):
        raise ValueError("anything")
    assert moved[-1] == ("Linear", "cpu")


def test_the_second_gpu_is_not_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    assert same_device(torch.device("cuda"), GPU) and same_device(CPU, CPU)
    assert not same_device(torch.device("cuda:1"), torch.device("cuda")) and not same_device(CPU, GPU)


def test_tiles_give_nearly_the_same_and_only_within_the_block() -> None:
    """A picture of 512 x 640 in tiles of 512."""
    model: Any = open_model(base_folder())
    pixels = torch.rand(1, 3, 512, 640, generator=torch.Generator().manual_seed(1)) * 2 - 1
    whole, _ = model.encode_pictures(pixels)
    tiled, _ = model.encode_pictures(pixels, tiled=True)
    assert whole.shape == tiled.shape and not torch.equal(whole, tiled)
    assert float((whole - tiled).norm() / whole.norm()) < 0.2
    assert torch.equal(model.encode_pictures(pixels)[0], whole)


def test_a_picture_that_cannot_be_decoded_whole_is_decoded_in_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    model: Any = open_model(base_folder())
    latents = torch.randn(1, 4, 64, 80, generator=torch.Generator().manual_seed(1))
    with torch.no_grad(), in_tiles(model.vae, 8):
        expected = model.vae.decode(latents / model.vae.config.scaling_factor).sample
    decode = model.vae.decode

    def short_of_memory(z: torch.Tensor, *rest: Any, **options: Any) -> Any:
        if not model.vae.use_tiling:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
        return decode(z, *rest, **options)

    monkeypatch.setattr(model.vae, "decode", short_of_memory)
    assert torch.equal(model.decode_latents(latents), expected) and not model.vae.use_tiling

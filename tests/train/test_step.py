from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from lora_train.models.ddpm import NoiseProcess
from lora_train.models.opening import open_model
from lora_train.networks.base import Form
from lora_train.networks.inject import create_networks
from lora_train.train.randomness import Randomness
from lora_train.train.step import BaseTerm, Draw, Row, backward

OFF = torch.autocast("cpu", torch.bfloat16, enabled=False)


def test_noise_process_equals_diffusers() -> None:
    from diffusers import DDPMScheduler

    for prediction in ("epsilon", "v_prediction"):
        config = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
        scheduler = DDPMScheduler(**config, prediction_type=prediction)
        process = NoiseProcess.of_config({**config, "prediction_type": prediction})
        x, noise, t = torch.randn(3, 4, 8, 8), torch.randn(3, 4, 8, 8), torch.tensor([0, 500, 999])
        assert torch.allclose(process.noised(x, noise, t), scheduler.add_noise(x, noise, t), atol=1e-6)
        target = noise if prediction == "epsilon" else scheduler.get_velocity(x, noise, t)
        assert torch.allclose(process.target(x, noise, t), target, atol=1e-6)


def test_randomness_depends_on_seed_name_and_position_only() -> None:
    def draw(seed: int, name: str, position: int) -> float:
        return float(torch.rand(1, generator=Randomness(seed).torch(name, position)))

    assert draw(1, "noise", 5) == draw(1, "noise", 5)
    assert len({draw(1, "noise", 5), draw(2, "noise", 5), draw(1, "order", 5), draw(1, "noise", 6)}) == 4


def test_rows_follow_their_equation(base: Path) -> None:
    """Two rows, one with a base term, against the module's formula written out."""
    model = open_model(base)
    networks = create_networks(model, "lora", Form(2, 2.0), torch.Generator().manual_seed(0), ("lora_unet", "lora_te"))
    for network in networks.networks.values():
        nn.init.normal_(network.up, std=0.2)
    networks.attach()
    generator = torch.Generator().manual_seed(1)
    x, other = (torch.randn(2, 4, 8, 8, generator=generator) for _ in range(2))
    noise, t = torch.randn(2, 4, 8, 8, generator=generator), torch.tensor([100, 700])
    weight, mask = torch.tensor([0.5, 2.0]), (torch.rand(2, 1, 8, 8, generator=generator) > 0.5).float()
    captions = ["red star on blue", "sks"]
    term = BaseTerm(0.7, other, ["", "blue circle on red"])
    rows = [Row(x, captions), Row(x, captions, multiplier=0.5, weight=0.3, mask=mask, terms=(term,))]
    found = backward(model, networks, rows, Draw(noise, t, weight), model.encode_text, lambda loss: loss, OFF)
    gradients = {n: p.grad.clone() for n, p in networks.named_parameters() if p.grad is not None}

    def predict(multiplier: float, clean: torch.Tensor, texts: list[str]) -> torch.Tensor:
        networks.multiplier = multiplier
        return model.predict(model.noised(clean, noise, t), t, model.encode_text(texts))

    with torch.no_grad():
        term_value = predict(0.0, other, list(term.captions)) - model.target(other, noise, t)
        y = model.target(x, noise, t) + 0.7 * term_value
    networks.zero_grad()
    first = weight * ((predict(1.0, x, captions) - model.target(x, noise, t)) ** 2).mean((1, 2, 3))
    first.mean().backward()
    second = 0.3 * weight * (mask * (predict(0.5, x, captions) - y) ** 2).mean((1, 2, 3))
    second.mean().backward()
    assert torch.allclose(found, (first + second).detach(), rtol=1e-4)
    for name, parameter in networks.named_parameters():
        assert parameter.grad is not None
        assert torch.allclose(parameter.grad, gradients[name], atol=1e-6, rtol=1e-3), name


def test_the_loss_and_what_the_model_sees_are_those_of_the_run(base: Path) -> None:
    """|p - y|^3 in place of the square, the target's noise untouched by that of the input."""
    model = open_model(base)
    networks = create_networks(model, "lora", Form(2, 2.0), torch.Generator().manual_seed(0), ("lora_unet",))
    generator = torch.Generator().manual_seed(1)
    x, noise, seen = (torch.randn(2, 4, 8, 8, generator=generator) for _ in range(3))
    t, weight, captions = torch.tensor([100, 700]), torch.tensor([0.5, 2.0]), ["red star", "sks"]
    asked: list[torch.Tensor] = []

    def cost(predicted: torch.Tensor, target: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
        asked.append(times)
        return (predicted - target).abs() ** 3

    term = BaseTerm(0.5, x, captions)
    rows, draw = [Row(x, captions, terms=(term,))], Draw(noise, t, weight, seen)
    found = backward(model, networks, rows, draw, model.encode_text, lambda loss: loss, OFF, cost)
    with torch.no_grad():
        predicted = model.predict(model.noised(x, seen, t), t, model.encode_text(captions))
        target = model.target(x, noise, t)
        y = target + 0.5 * (predicted - target)  # new networks change nothing: the base predicts the same
        expected = weight * ((predicted - y).abs() ** 3).mean((1, 2, 3))
    assert torch.allclose(found, expected, rtol=1e-4) and torch.equal(asked[0], t)
    first = draw.part(slice(1))
    assert [len(part) for part in (first.noise, first.t, first.weight, first.in_input)] == [1] * 4
    assert torch.equal(first.in_input, seen[:1]) and torch.equal(Draw(noise, t, weight).in_input, noise)


def test_the_multiplier_is_restored_even_when_the_model_fails(base: Path) -> None:
    model = open_model(base)
    networks = create_networks(model, "lora", Form(1, 1.0), torch.Generator(), ("lora_unet",))
    with pytest.raises(ZeroDivisionError), networks.at(0.25):
        raise ZeroDivisionError
    assert networks.multiplier == 1.0

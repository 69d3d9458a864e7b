"""Text conditioning kept by caption: bounded, in the computer's memory, and the same as made afresh."""

from __future__ import annotations

import random
from typing import Any

import torch

from lora_train.models.base import Conditioning
from lora_train.models.opening import open_model
from lora_train.train.text_states import TextStates

ROW = 3 * 4 * 4
"""Bytes of one caption's states below."""


class Encoder:
    """Counts what it is asked for."""

    def __init__(self, device: str = "cpu") -> None:
        self.asked: list[str] = []
        self.device = device

    def __call__(self, caption: str) -> Conditioning:
        self.asked.append(caption)
        return {"states": torch.full((1, 3, 4), float(len(caption)), device=self.device)}


def test_a_caption_is_encoded_once() -> None:
    states, encode = TextStates(), Encoder()
    for _ in range(3):
        made = states.of(["a", "bbb", "a"], encode, torch.device("cpu"))["states"]
        assert made[:, 0, 0].tolist() == [1.0, 3.0, 1.0]
    assert encode.asked == ["a", "bbb"]


def test_they_are_bounded_and_the_longest_unused_goes_first() -> None:
    states, encode = TextStates(limit=3 * ROW), Encoder()
    for caption in ("1", "22", "333", "1", "4444"):
        states.of([caption], encode, torch.device("cpu"))
    assert len(states) == 3
    encode.asked.clear()
    states.of(["1", "333", "4444"], encode, torch.device("cpu"))
    assert encode.asked == []
    states.of(["22"], encode, torch.device("cpu"))
    assert encode.asked == ["22"]


def test_shuffled_captions_have_an_end() -> None:
    states, encode, rng = TextStates(limit=10 * ROW), Encoder(), random.Random(0)
    parts = [str(number) for number in range(9)]
    for _ in range(500):
        rng.shuffle(parts)
        states.of([", ".join(parts)], encode, torch.device("cpu"))
    assert len(states) == 10


def test_one_that_is_larger_than_the_limit_still_serves() -> None:
    made = TextStates(limit=1).of(["a", "bb"], Encoder(), torch.device("cpu"))["states"]
    assert made[:, 0, 0].tolist() == [1.0, 2.0]


def test_they_are_kept_on_the_cpu_and_given_on_the_device() -> None:
    """The device "meta" stands for a GPU: what is on it has no values and cannot be read back."""
    states = TextStates()
    kept: list[Conditioning] = []

    def encode(caption: str) -> Conditioning:
        kept.append({"states": torch.ones(1, 3, 4)})
        return kept[-1]

    given = states.of(["a"], encode, torch.device("meta"))["states"]
    assert given.device.type == "meta"
    assert all(value.device.type == "cpu" for one in states._kept.values() for value in one.values())
    assert torch.equal(states.of(["a"], encode, torch.device("cpu"))["states"], torch.ones(1, 3, 4))


def test_the_trainers_are_those_of_the_model(base: Any) -> None:
    model = open_model(base)
    states = TextStates()
    with torch.no_grad():
        expected = model.encode_text(["red star", "mascot"])["states"]
        found = states.of(["red star", "mascot"], lambda text: model.encode_text([text]), model.device)["states"]
    assert torch.allclose(expected, found, atol=1e-5)

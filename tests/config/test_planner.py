"""What a step does without on a card of each size, and what a person is told."""

from __future__ import annotations

from typing import Any

import pytest

from lora_train.config import Choice, Facts, RunConfig, resolve
from lora_train.config.planner import Means
from lora_train.errors import LoraTrainError

BASE = {"full": 5.1, "fp8": 2.6, "int8": 2.6, "nf4": 1.4}


def predict(config: RunConfig, means: Means) -> int:
    """Like SDXL: 0.5 GB for the network, 8.4 for a picture's activations at 1024 px, a tenth of it recomputed."""
    side = config.data.resolution or 1024
    kept = 8.4 * (side / 1024) ** 2 * means.pictures * (1 - 0.9 * means.share)
    return int(1e9 * (BASE[means.base] + 0.5 + kept))


def resolved(free: float | None, **given: Any) -> tuple[RunConfig, list[Choice]]:
    """A run with so many GB free, and the choices made by memory."""
    config = RunConfig.from_dict(dict(given))
    memory = None if free is None else int(free * 1e9)
    facts = Facts(20, 1024, "cuda", True, unet_parameters=2_567_000_000, free_memory=memory, predict=predict)
    found, choices = resolve(config, facts)
    fields = ("gradient_checkpointing", "checkpointing_share", "micro_batch_size", "base_precision")
    return found, [choice for choice in choices if choice.field.removeprefix("train.") in fields]


def means_of(config: RunConfig) -> tuple[Any, ...]:
    train = config.train
    return train.gradient_checkpointing, train.checkpointing_share, train.micro_batch_size, train.base_precision


@pytest.mark.parametrize(
    ("free", "expected"),
    [
        (None, (False, None, None, "full")),
        (24, (False, None, None, "full")),
        (12, (True, 0.48, None, "full")),
        (8, (True, None, None, "full")),
        (5, (True, None, None, "fp8")),
    ],
)
def test_one_picture(free: float | None, expected: tuple[Any, ...]) -> None:
    """As few blocks as the memory needs, all of them, and only then a base that is less exact."""
    assert means_of(resolved(free)[0]) == expected


@pytest.mark.parametrize(
    ("free", "expected"),
    [
        (45, (False, None, None, "full")),
        (30, (False, None, 2, "full")),
        (18, (False, None, 1, "full")),
        (8, (True, None, 2, "full")),
    ],
)
def test_fewer_pictures_at_once_come_first(free: float, expected: tuple[Any, ...]) -> None:
    """The batch stays as it is."""
    config, _ = resolved(free, data={"train_batch_size": 4})
    assert means_of(config) == expected and config.data.train_batch_size == 4


def test_each_choice_has_its_sentence() -> None:
    _, choices = resolved(5, data={"train_batch_size": 2})
    assert {choice.field: choice.value for choice in choices} == {
        "train.micro_batch_size": 1,
        "train.gradient_checkpointing": True,
        "train.base_precision": "fp8",
    }
    free = "5.0 GB are free on the GPU, and a step needs about 22.4 GB without"
    assert [choice.why for choice in choices] == [
        f"{free}; the result is the same",
        f"{free}; slower, the result is the same",
        f"{free}; the base is a little less exact",
    ]
    assert resolved(24)[1] == [] == resolved(None)[1]


@pytest.mark.parametrize(
    ("given", "free", "expected"),
    [
        ({"gradient_checkpointing": False, "base_precision": "fp8"}, 13, (False, None, None, "fp8")),
        ({"gradient_checkpointing": True}, 24, (True, None, None, "full")),
        ({"checkpointing_share": 0.5}, 24, (True, 0.5, None, "full")),
        ({"gradient_checkpointing": True, "checkpointing_share": 0.5}, 12, (True, 0.5, None, "full")),
        ({"base_precision": "nf4"}, 24, (False, None, None, "nf4")),
        ({"base_precision": "full"}, 8, (True, None, None, "full")),
    ],
)
def test_what_a_person_has_set_is_kept(given: dict[str, Any], free: float, expected: tuple[Any, ...]) -> None:
    config, choices = resolved(free, train=given)
    assert means_of(config) == expected
    assert not {choice.field.removeprefix("train.") for choice in choices} & given.keys()


@pytest.mark.parametrize(
    ("given", "free", "words"),
    [
        (
            {},
            3.5,
            ["dimension 16 at 1024 px needs about 3.9 GB, and 3.5 GB are free", "train.base_precision nf4 (2.7 GB)"],
        ),
        ({}, 2.5, ["needs about 3.9 GB", "data.resolution 384 with train.base_precision nf4 (2.0 GB)"]),
        ({}, 2, ["needs about 3.9 GB", "Nothing that is known here would fit"]),
        ({"base_precision": "full"}, 6, ["needs about 6.4 GB", "train.base_precision fp8 (3.9 GB)"]),
        ({"gradient_checkpointing": False}, 6, ["needs about 11.5 GB", "train.gradient_checkpointing on (3.9 GB)"]),
        (
            {"base_precision": "full", "gradient_checkpointing": False},
            3.5,
            ["train.base_precision nf4 together (2.7 GB)"],
        ),
    ],
)
def test_where_nothing_fits_it_says_what_would(given: dict[str, Any], free: float, words: list[str]) -> None:
    with pytest.raises(LoraTrainError) as caught:
        resolved(free, train=given)
    for part in words:
        assert part in str(caught.value)


def test_where_only_the_reserve_is_missing_it_is_tried() -> None:
    """The prediction is not exact, and a step that runs out of memory is repeated with less."""
    config, choices = resolved(4.0)
    assert means_of(config) == (True, None, None, "fp8") and len(choices) == 2

from __future__ import annotations

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_train.config import DataOptions, Facts, RunConfig, SaveOptions, TrainOptions, check, problems, resolve
from lora_train.config.table import CHOICES, RANGES
from lora_train.config.validate import name_problem
from lora_train.errors import LoraTrainError


def test_json_round_trip() -> None:
    config = RunConfig(train=TrainOptions(max_train_steps=7, unet_lr=1e-3), save=SaveOptions(output_name="é x"))
    assert RunConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_every_unknown_or_wrong_field_is_reported_together() -> None:
    with pytest.raises(LoraTrainError) as caught:
        RunConfig.from_dict({"trian": {}, "train": {"steps": 5, "seed": "x"}, "data": {"flip_aug": 1}, "save": 3})
    assert {p.where for p in caught.value.problems} == {"trian", "train.steps", "train.seed", "data.flip_aug", "save"}


def test_a_newer_version_is_refused() -> None:
    with pytest.raises(LoraTrainError, match="version 99"):
        RunConfig.from_dict({"version": 99})


def test_whole_numbers_are_accepted_for_numbers_but_not_true() -> None:
    assert RunConfig.from_dict({"train": {"learning_rate": 1}}).train.learning_rate == 1.0
    with pytest.raises(LoraTrainError):
        RunConfig.from_dict({"train": {"max_train_steps": True}})


def test_all_problems_come_at_once() -> None:
    config = RunConfig.from_dict(
        {
            "train": {"max_train_steps": 0, "lr_scheduler": "wavy", "learning_rate": float("nan")},
            "save": {"output_name": "../x"},
        }
    )
    where = {p.where for p in problems(config)}
    assert where >= {
        "train.max_train_steps",
        "train.lr_scheduler",
        "train.learning_rate",
        "save.output_name",
        "model.path",
        "data.folder",
        "save.output_dir",
    }
    with pytest.raises(LoraTrainError) as caught:
        check(config)
    assert len(caught.value.problems) == len(problems(config))


def test_all_rates_zero_is_refused() -> None:
    config = RunConfig(train=TrainOptions(unet_lr=0.0, text_encoder_lr=0.0))
    assert any("all learning rates are 0" in p.what for p in problems(config))


def test_tables_name_existing_fields() -> None:
    for path in (*RANGES, *CHOICES):
        group, name = path.split(".")
        assert name in {f.name for f in dataclasses.fields(getattr(RunConfig(), group))}


@pytest.mark.parametrize(
    "name", ["a/b", "a\\b", "..", "a..b", "", "  ", "con", "NUL.x", ".hidden", "x:", "x ", "a" * 201]
)
def test_bad_names(name: str) -> None:
    assert name_problem(name) is not None


@pytest.mark.parametrize(
    ("tag", "good"), [("sks", True), ("sks, red hat", True), ("猫", True), (",", False), ("x\ny", False)]
)
def test_tags(tag: str, good: bool) -> None:
    found = [problem for problem in problems(RunConfig(data=DataOptions(tag=tag))) if problem.where == "data.tag"]
    assert not found if good else len(found) == 1


@pytest.mark.parametrize("name", ["sara", "lora-sara v1.2", "عربي", "猫", "console"])
def test_good_names(name: str) -> None:
    assert name_problem(name) is None


@given(st.integers(1, 5000), st.integers(1, 64), st.integers(-5, 8).filter(bool))
def test_automatic_steps_show_every_picture_and_change_nothing_given(
    pictures: int, batch: int, accumulation: int
) -> None:
    config = RunConfig.from_dict(
        {"data": {"train_batch_size": batch}, "train": {"gradient_accumulation_steps": accumulation, "unet_lr": 3e-4}}
    )
    resolved, choices = resolve(config, Facts(pictures, 512, "cpu", False))
    assert resolved.train.max_train_steps
    assert resolved.train.gradient_accumulation_steps >= 1
    looks = resolved.train.max_train_steps * batch * resolved.train.gradient_accumulation_steps
    assert looks >= 600
    assert resolved.train.unet_lr == 3e-4
    assert "train.unet_lr" not in {choice.field for choice in choices}
    assert all(choice.why for choice in choices)
    assert resolve(resolved, Facts(1, 64, "cpu", False))[0] == resolved


def test_automatic_steps_count_the_batches_that_there_are() -> None:
    """Five pictures of five shapes: a batch of 4 never has more than one."""
    config = RunConfig.from_dict({"data": {"train_batch_size": 4}, "train": {"gradient_accumulation_steps": 2}})
    asked: list[int | None] = []

    def epoch(data: DataOptions) -> tuple[int, int]:
        asked.append(data.resolution)
        return 50, 50

    resolved, choices = resolve(config, Facts(5, 512, "cpu", False, epoch))
    (why,) = [choice.why for choice in choices if choice.field == "train.max_train_steps"]
    assert asked == [512] and resolved.train.max_train_steps == 300
    assert why == "each of the 5 pictures is seen about 120 times"


@pytest.mark.parametrize(("pictures", "times"), [(1, 600), (10, 100), (80, 50)])
def test_how_often_pictures_are_seen_is_said_as_it_is(pictures: int, times: int) -> None:
    _, choices = resolve(RunConfig(), Facts(pictures, 512, "cpu", False))
    assert any(f"seen about {times} times" in choice.why for choice in choices)


@pytest.mark.parametrize(
    ("longest", "asked", "read", "said"),
    [
        (0, None, 75, False),
        (75, None, 75, False),
        (76, None, 150, True),
        (151, None, 225, True),
        (9999, None, 225, True),
        (200, 75, 75, False),
        (None, None, None, False),
    ],
)
def test_as_much_of_captions_is_read_as_the_longest_needs(
    longest: int | None, asked: int | None, read: int | None, said: bool
) -> None:
    config = RunConfig.from_dict({"data": {"max_token_length": asked}})
    resolved, choices = resolve(config, Facts(1, 512, "cpu", False, longest_caption=longest))
    assert resolved.data.max_token_length == read
    assert ("data.max_token_length" in {choice.field for choice in choices}) is said


@pytest.mark.parametrize("steps", [None, 7])
def test_epochs_count_as_accelerate_does(steps: int | None) -> None:
    """11 batches in groups of 4 make 3 steps; epochs win over steps, and it is said."""
    train = {"max_train_epochs": 5, "max_train_steps": steps, "gradient_accumulation_steps": 4}
    config = RunConfig.from_dict({"train": train})
    resolved, choices = resolve(config, Facts(5, 512, "cpu", False, lambda data: (50, 11)))
    assert resolved.train.max_train_steps == 15
    (why,) = [choice.why for choice in choices if choice.field == "train.max_train_steps"]
    assert why == "5 epochs of 3 steps"
    assert resolve(resolved, Facts(5, 512, "cpu", False, lambda data: (50, 11)))[0] == resolved


def test_captions_are_read_in_whole_chunks() -> None:
    found = problems(RunConfig.from_dict({"data": {"max_token_length": 100}}))
    assert [one.where for one in found if "75, 150 or 225" in one.fix] == ["data.max_token_length"]


def test_alpha_zero_means_half_of_the_dimension() -> None:
    config = RunConfig.from_dict({"network": {"network_dim": 10, "network_alpha": 0}})
    assert resolve(config, Facts(1, 512, "cpu", False))[0].network.network_alpha == 5.0


def test_a_small_base_has_a_recipe_of_its_own_and_what_is_given_stays() -> None:
    small = Facts(14, 128, "cpu", False, unet_parameters=8_000_000)
    resolved, choices = resolve(RunConfig(), small)
    train, network = resolved.train, resolved.network
    assert resolved.data.train_batch_size == 4 and train.learning_rate == train.unet_lr == 1.5e-3
    assert network.conv_dim == network.network_dim and network.conv_alpha == network.network_dim
    assert train.preserve and "train.preserve" in {choice.field for choice in choices}
    given = RunConfig.from_dict(
        {
            "data": {"train_batch_size": 2},
            "network": {"conv_dim": 0, "network_alpha": 3},
            "train": {"learning_rate": 1e-4, "preserve": 0},
        }
    )
    resolved, choices = resolve(given, small)
    assert (resolved.data.train_batch_size, resolved.network.conv_dim, resolved.network.network_alpha) == (2, 0, 3)
    assert (resolved.train.unet_lr, resolved.train.preserve) == (1e-4, 0)
    assert not {"data.train_batch_size", "network.conv_dim", "train.preserve"} & {choice.field for choice in choices}


def test_another_base_has_the_usual_numbers() -> None:
    resolved, _ = resolve(RunConfig(), Facts(14, 512, "cpu", False))
    assert (resolved.data.train_batch_size, resolved.train.learning_rate, resolved.train.text_encoder_lr) == (
        1,
        1e-4,
        5e-5,
    )
    assert resolved.network.conv_dim is None and resolved.train.preserve == 0


@pytest.mark.parametrize(
    "network", [{"kind": "ia3"}, {"network_train_text_encoder_only": True}, {"network_weights": "a.safetensors"}]
)
def test_convolutions_are_chosen_only_where_nothing_says_which_layers_are_trained(network: dict[str, object]) -> None:
    config = RunConfig.from_dict({"network": network})
    assert resolve(config, Facts(5, 128, "cpu", False, unet_parameters=8_000_000))[0].network.conv_dim is None

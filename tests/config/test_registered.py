"""Options registered from outside: as good as a section's own on every face, and gone without a trace."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lora_train.cli import build_parser
from lora_train.cli.train import config_of
from lora_train.config import RunConfig, TrainOptions, kohya, problems
from lora_train.config.document import document
from lora_train.config.extending import registered_for
from lora_train.config.files import read_options, set_options, write_config
from lora_train.config.network import network_arguments
from lora_train.config.option import COMMAS, DATA, NETWORK_MORE, About
from lora_train.config.table import CHOICES, RANGES, Option, find, in_section, known, options, register
from lora_train.config.wording import in_flags, in_labels
from lora_train.errors import LoraTrainError
from lora_train.prepare.base import Plan

SHARE = Option(
    "train",
    "brightness_share",
    0.25,
    float,
    About("Share of brightness", "how much brightness counts", DATA, range=(0, 1), kohya=("brightness_weight",)),
)
MODE = Option(
    "train", "brightness_mode", "soft", str, About("Mode", "how it counts", DATA, choices=("soft", "hard")),
)  # fmt: skip
STEPS = Option(
    "prepare", "own_steps", (), tuple[str, ...], About("Own steps", "names of steps", DATA, written=COMMAS)
)  # fmt: skip
WIDTH = Option("network", "own_width", None, int | None, About("Width", "a width", NETWORK_MORE, unset="none"))
ALL = (SHARE, MODE, STEPS, WIDTH)


@pytest.fixture
def there() -> Iterator[None]:
    with registered_for(*ALL):
        yield


def made(*line: str) -> RunConfig:
    return config_of(build_parser().parse_args(["train", *line]), "", "")


@pytest.mark.usefixtures("there")
def test_it_is_in_the_table_beside_the_fields() -> None:
    assert all(option in options() for option in ALL) and find("train.brightness_share") == SHARE
    assert in_section("train")[-2:] == (SHARE, MODE)
    assert (RANGES[SHARE.path], CHOICES[MODE.path]) == ((0, 1), ("soft", "hard"))
    assert (
        "| train.brightness_share | Share of brightness | `--brightness-share` | how much brightness counts | `0.25` |"
        in document()
    )
    assert kohya.FLAGS["brightness_weight"] == "--brightness-share"


@pytest.mark.usefixtures("there")
def test_its_value_is_read_like_a_field() -> None:
    config = RunConfig.from_dict({"train": {"brightness_share": 1, "seed": 7}})
    train: Any = config.train
    assert (train.brightness_share, SHARE.of(config), SHARE.of(RunConfig()), train.seed) == (1.0, 1.0, 0.25, 7)
    assert replace(config.train, seed=8).more == config.train.more, "what is changed beside it leaves it"
    assert hash(config) != hash(RunConfig()) and config != RunConfig()
    assert SHARE.put(config, 0.25) == RunConfig(train=TrainOptions(seed=7)), "its default is as if it were not given"
    assert RunConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert config.to_dict()["train"]["brightness_share"] == 1.0 and "more" not in config.to_dict()["train"]


@pytest.mark.usefixtures("there")
def test_what_is_wrong_with_it_is_said_with_the_rest() -> None:
    with pytest.raises(LoraTrainError) as caught:
        RunConfig.from_dict({"train": {"brightness_share": "x", "brightness_shar": 1, "more": []}})
    found = {one.where: str(one) for one in caught.value.problems}
    assert found.keys() == {"train.brightness_share", "train.brightness_shar", "train.more"}
    assert "Did you mean brightness_share?" in found["train.brightness_shar"]
    config = RunConfig.from_dict({"train": {"brightness_share": 1.5, "brightness_mode": "loud"}})
    found = {one.where: str(one) for one in problems(config) if one.where.startswith("train.b")}
    assert "from 0 to 1" in found[SHARE.path] and "soft, hard" in found[MODE.path]
    assert in_flags(found[SHARE.path]).startswith("--brightness-share: 1.5")
    assert in_labels(f"Give {SHARE.path}.") == "Give “Share of brightness”."


@pytest.mark.usefixtures("there")
def test_the_command_line_has_it(tmp_path: Path) -> None:
    text = " ".join(build_parser().parse(["train"])[0].parser.format_help().split())
    assert "--brightness-share" in text and "how much brightness counts (default: 0.25)" in text
    found = made("--brightness_weight", "0.5", "--brightness-mode", "HARD", "--own-steps", "a, b", "--own-width", "3")
    assert [option.of(found) for option in ALL] == [0.5, "hard", ("a", "b"), 3]
    assert SHARE.of(made("--set", "train.brightness_share=0.75")) == 0.75
    assert WIDTH.of(made("--args", "own_width=4")) == 4
    for name in ("a.json", "a.toml"):
        write_config(tmp_path / name, found)
        assert read_options(tmp_path / name)[0] == found
        assert made("--config", str(tmp_path / name), "--seed", "3") == replace(
            found, train=replace(found.train, seed=3)
        )
    assert build_parser().parse(["train", "--brightness-mode", "loud"])[1][0].where == "--brightness-mode"


@pytest.mark.usefixtures("there")
def test_what_a_network_has_besides_stands_in_its_arguments() -> None:
    assert network_arguments(WIDTH.put(RunConfig(), 5).network) == {"own_width": "5"}


@pytest.mark.usefixtures("there")
def test_workers_are_sent_it() -> None:
    plan = Plan(STEPS.put(RunConfig(), ("a",)).prepare, "store")
    assert Plan.from_dict(json.loads(json.dumps(plan.to_dict()))) == plan


def test_outside_of_its_time_there_is_nothing_left() -> None:
    before, page = options(), document()
    with registered_for(SHARE):
        config = SHARE.put(RunConfig(), 0.5)
        assert options() != before and document() != page
    assert options() == before and document() == page and not known(SHARE.path) and SHARE.path not in RANGES
    with pytest.raises(LoraTrainError, match=r"train\.brightness_share: there is no such option"):
        RunConfig.from_dict(config.to_dict())
    with pytest.raises(LoraTrainError, match="there is no such option"):
        set_options(RunConfig(), ["train.brightness_share=1"])
    with pytest.raises(AttributeError, match="brightness_share"):
        SHARE.of(RunConfig())


@pytest.mark.parametrize(
    ("option", "why"),
    [
        (replace(SHARE, section="trian"), "no section 'trian'"),
        (replace(SHARE, name="seed"), "name train.seed is taken"),
        (replace(SHARE, name="more"), "is taken"),
        (replace(SHARE, name="to_dict"), "is taken"),
        (replace(SHARE, about=replace(SHARE.about, flags=("--lr",))), "'--lr' is the name of train.learning_rate"),
        (replace(SHARE, about=replace(SHARE.about, metadata="ss_seed")), "'ss_seed' is the name of train.seed"),
        (replace(SHARE, about=replace(SHARE.about, kohya=("unet_lr",))), "'unet_lr' is the name of train.unet_lr"),
        (replace(SHARE, about=replace(SHARE.about, group="mine")), "group"),
        (replace(SHARE, default="x"), "default does not fit"),
        (replace(SHARE, default=None, hint=float | None), "unset"),
    ],
)
def test_what_cannot_be_added_is_refused(option: Option, why: str) -> None:
    before = options()
    with pytest.raises(ValueError, match=why):
        register(option)
    assert options() == before
    with registered_for(SHARE), pytest.raises(ValueError, match="taken"):
        register(replace(SHARE, default=0.5))

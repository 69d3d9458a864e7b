"""Tables of methods: what is in them, and how one is added from outside."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest

from lora_train.cli import build_parser
from lora_train.cli.train import config_of
from lora_train.config import RunConfig, TrainOptions, captioning_methods, idle_notes, problems, training_methods
from lora_train.config.document import document
from lora_train.config.extending import register, registered_for
from lora_train.config.methods import Choice, Layers, Method, Table
from lora_train.config.option import LOSS, About
from lora_train.config.table import CHOICES, Option, find, known
from lora_train.config.training_methods import LOSSES, NOISES, OPTIMIZERS
from lora_train.errors import LoraTrainError

TABLES = (*training_methods.TABLES, *captioning_methods.TABLES)
MINE = Method("mine", "mine alone", lambda *given: len(given), kohya=("Theirs",))


@pytest.mark.parametrize(
    ("table", "method"), [(table, method) for table in TABLES for method in table.values()], ids=lambda one: one.title
    if isinstance(one, Table)
    else one.name,
)  # fmt: skip
def test_each_method_is_whole(table: Table, method: Method) -> None:
    assert table[method.name] is method and method.does and not method.does.endswith(".")
    assert [path for path in method.options if not known(path)] == []
    assert callable(method.load())
    if isinstance(table, Layers):
        assert method.options, "the first one switches it on"
    else:
        assert isinstance(table, Choice) and CHOICES[table.option] == tuple(table)
    assert f"| {method.name} | {method.does} |" in document()


def test_names_and_sentences_need_no_torch() -> None:
    code = "import sys; from lora_train.config.training_methods import TABLES; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"


def made(*line: str) -> RunConfig:
    return config_of(build_parser().parse_args(["train", *line]), "", "")


def test_a_method_from_outside_can_be_chosen_everywhere() -> None:
    before = document()
    with registered_for((LOSSES, MINE)):
        assert CHOICES["train.loss_type"][-1] == "mine" and "| mine | mine alone |" in document()
        assert made("--loss-type", "mine").train.loss_type == made("--loss_type", "theirs").train.loss_type == "mine"
        config = RunConfig.from_dict({"train": {"loss_type": "mine"}})
        assert not [one for one in problems(config) if one.where == "train.loss_type"]
        assert LOSSES.of(config)(1, 2, 3) == 3 and LOSSES.active(config) == (MINE,)
        for name in ("mine", "l2", "Theirs"):
            with pytest.raises(ValueError, match="is taken among the losses"):
                LOSSES.register(replace(MINE, name=name))
    assert document() == before and "mine" not in find("train.loss_type").about.choices
    assert [one.where for one in problems(config) if "known" in one.what] == ["train.loss_type"]
    with pytest.raises(LoraTrainError, match=r"train\.loss_type: 'mine' is not known\. Choose from: l2, "):
        LOSSES.of(config)


def test_layers_are_on_where_their_first_option_is_not_at_its_default() -> None:
    assert NOISES.active(RunConfig()) == ()
    assert [one.name for one in NOISES.active(RunConfig(train=TrainOptions(noise_offset=0.1)))] == ["offset"]


def test_options_of_methods_that_are_not_used_are_noted() -> None:
    sgd = Method("own", "an optimizer", lambda groups, config: None)
    config = RunConfig(train=TrainOptions(optimizer="own", weight_decay=0.5))
    with registered_for((OPTIMIZERS, sgd)):
        (note,) = [text for text in idle_notes(config) if "weight_decay" in text]
        assert note == "train.weight_decay has no effect with train.optimizer own."
        assert not [text for text in idle_notes(RunConfig()) if "no effect" in text]
    more = TrainOptions(huber_c=0.5, multires_noise_discount=0.5, lr_scheduler_power=2.0, logit_std=2.0)
    assert idle_notes(RunConfig(train=more)) == [
        "train.huber_c has no effect with train.loss_type l2.",
        "train.multires_noise_discount has no effect without train.multires_noise_iterations.",
        "train.logit_std has no effect with train.timestep_sampling uniform.",
        "train.lr_scheduler_power has no effect with train.lr_scheduler cosine.",
    ]
    assert idle_notes(RunConfig(train=TrainOptions(loss_type="huber", huber_c=0.5))) == []


def test_the_formula_of_a_name_is_found_when_it_is_asked_for() -> None:
    later: Any = Method("later", "found later", "math:hypot")
    assert later(3, 4) == 5
    with pytest.raises(ModuleNotFoundError):
        Method("lost", "found never", "lora_train.nowhere:f").load()


def test_several_additions_come_together_or_not_at_all() -> None:
    own = Option("train", "own_strength", 0.0, float, About("Own", "an own strength", LOSS))
    with pytest.raises(ValueError, match="'l1' is taken"):
        register(own, (LOSSES, replace(MINE, name="l1")))
    assert not known(own.path)
    with registered_for(own, (LOSSES, MINE)):
        assert known(own.path) and "mine" in LOSSES
    assert not known(own.path) and "mine" not in LOSSES

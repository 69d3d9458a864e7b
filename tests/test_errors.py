"""What messages look like."""

from __future__ import annotations

from pathlib import Path

import pytest

from lora_train.config import RunConfig, problems
from lora_train.errors import LoraTrainError, Problem, shortened
from lora_train.lorafile.reading import read_lora

LONG = "x" * 10_000


def test_a_short_message_stays_as_it_is() -> None:
    problem = Problem("'a' is not known, nor is \"it's\".", "/a/b c.txt", "Give another.")
    assert str(problem) == "/a/b c.txt: 'a' is not known, nor is \"it's\". Give another."


@pytest.mark.parametrize(
    "problem",
    [
        Problem(f"the name {LONG!r} is too long.", "save.output_name"),
        Problem(f"{'a b ' * 2500!r} is not known.", "train.optimizer", "Choose from: adamw."),
        Problem("there is no such folder.", f"/data/{'a b/' * 2500}pictures", "Give another."),
        Problem(f"there is no LoRA file {LONG}.", "network.network_weights"),
        Problem("bad.", "", f"Use {LONG}."),
        Problem("word " * 4000, "where"),
    ],
)
def test_what_is_quoted_is_cut_and_the_rest_is_there(problem: Problem) -> None:
    assert len(str(problem)) < 3500 and "characters)" in str(problem)
    assert len(str(LoraTrainError(problem.what, problem.where, problem.fix))) < 3500
    assert len(str(problem.to_dict())) < 3600


def test_beginning_and_end_stay() -> None:
    text = str(Problem(f"the name {'a' * 5000 + 'END'!r} is reserved.", "save.output_name", "Choose another."))
    assert text.startswith("save.output_name: the name 'aaaa") and "END" in text
    assert text.endswith("is reserved. Choose another.")


def test_many_short_things_stay_whole() -> None:
    listed = "; ".join(f"'picture-{number}.png'" for number in range(100))
    assert shortened(listed) == listed


def test_messages_of_real_values() -> None:
    config = RunConfig.from_dict({"save": {"output_name": LONG}, "data": {"tag": "a"}, "train": {"optimizer": LONG}})
    assert all(len(str(problem)) < 1500 for problem in problems(config))
    with pytest.raises(LoraTrainError) as caught:
        read_lora(Path("nowhere") / "a/" / ("b c " * 60))
    assert len(str(caught.value)) < 1500

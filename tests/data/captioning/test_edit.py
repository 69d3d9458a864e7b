from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest

from lora_train.data.captioning.edit import (
    OPERATIONS,
    Edit,
    add,
    blacklist,
    count_parts,
    deduplicate,
    edited,
    remove,
    reorder,
    replace,
)
from lora_train.errors import LoraTrainError

CAPTION = "woman, red_hair, Hat, hat, park"
COUNTS = Counter({"park": 3, "hat": 2, "woman": 1, "red hair": 1})


@pytest.mark.parametrize(
    ("edit", "expected"),
    [
        (add(["sara"]), "sara, woman, red_hair, Hat, hat, park"),
        (add(["hat", "sks, x"]), "hat, sks, x, woman, red_hair, park"),
        (add(["PARK"], "back"), "woman, red_hair, Hat, hat, PARK"),
        (add(["night"], "back"), "woman, red_hair, Hat, hat, park, night"),
        (remove(["hat"]), "woman, red_hair, park"),
        (remove(["red hair", "w*"]), "woman, Hat, hat, park"),
        (blacklist(["red*", "PARK"]), "woman, Hat, hat"),
        (blacklist(["*"]), ""),
        (deduplicate(), "woman, red_hair, Hat, park"),
        (replace("^h", "H"), "woman, red_hair, Hat, Hat, park"),
        (replace("(?i)^hat$", ""), "woman, red_hair, park"),
        (replace(r"(\w+)_(\w+)", r"\2 of \g<1>"), "woman, hair of red, Hat, hat, park"),
        (replace("woman", "girl, smile"), "girl, smile, red_hair, Hat, hat, park"),
        (replace("(?P<a>w)|(z)", r"\g<a>\2"), CAPTION),
        (reorder("alphabetical"), "Hat, hat, park, red_hair, woman"),
        (reorder("frequency"), "park, Hat, hat, woman, red_hair"),
        (reorder("first", ["park", "hat"]), "park, Hat, hat, woman, red_hair"),
        (reorder("alphabetical", ["woman"]), "woman, Hat, hat, park, red_hair"),
    ],
)
def test_edits(edit: Edit, expected: str) -> None:
    assert edited(CAPTION, [edit], COUNTS).rstrip("\n") == expected
    assert edit.name


def test_edits_follow_each_other_and_leave_alone_what_they_do_not_change() -> None:
    assert edited("a\n", [add(["b"]), remove(["a"]), replace("b", "c")], Counter()) == "c\n"
    untidy = "woman ,, hat\r\n"
    assert edited(untidy, [remove(["dog"])], Counter()) == untidy


def test_frequency_counts_captions_not_occurrences() -> None:
    assert count_parts(["a, A, b_c", "a", ""]) == {"a": 2, "b c": 1}


@pytest.mark.parametrize(
    "make",
    [
        lambda: replace("(", "x"),
        lambda: replace("a", r"\1"),
        lambda: replace("(a)", r"\g<name>"),
        lambda: replace("a", "\\"),
        lambda: replace("a{99999999999999999999}", ""),
        lambda: add([]),
        lambda: remove([" , "]),
        lambda: blacklist([]),
        lambda: reorder("random"),  # type: ignore[arg-type]
        lambda: edited("a", [add(["\ud800"])], Counter()),
    ],
)
def test_what_cannot_be_meant_is_told(make: Callable[[], object]) -> None:
    with pytest.raises(LoraTrainError) as told:
        make()
    assert told.value.problems[0].fix


def test_every_operation_is_in_the_table() -> None:
    assert set(OPERATIONS) == {"add", "remove", "replace", "reorder", "deduplicate", "blacklist"}
    assert isinstance(OPERATIONS["add"](["x"], where="back"), Edit)

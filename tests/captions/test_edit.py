from __future__ import annotations

import inspect
import subprocess
from collections import Counter
from collections.abc import Callable

import pytest

from lora_train import patterns
from lora_train.captions.edit import (
    OPERATIONS,
    Edit,
    add,
    all_edited,
    blacklist,
    count_parts,
    deduplicate,
    edit_of,
    edited,
    plain,
    remove,
    reorder,
    replace,
)
from lora_train.config.sections.captions import EDITS
from lora_train.config.table import find
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


def test_each_line_is_a_caption_and_remarks_stay() -> None:
    text = "# made by tagger v3\r\n1girl, hat\r\n\r\na woman\u2028with a hat, hat\r\n"
    made = "# made by tagger v3\nsks, 1girl\nsks, a woman\nsks, with a hat\n"
    assert edited(text, [add(["sks"]), remove(["hat"])], Counter()) == made
    assert edited(text, [remove(["dog"])], Counter()) == text
    assert edited("hat\nhat, hat\n", [remove(["hat"])], Counter()) == "\n"
    assert edited("", [add(["a"])], Counter()) == "a\n"
    assert count_parts([text]) == {"1girl": 1, "hat": 1, "a woman": 1, "with a hat": 1}


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("(masterpiece:1.2), (sks:1.3), [bad], ((red hair))", "masterpiece, sks, bad, red hair"),
        ("sks BREAK red hair AND a park", "sks, red hair, a park"),
        ("photo of sks <lora:add_detail:0.6>", "photo of sks"),
        (r"saber \(fate\), red_hair, sks", "saber (fate), red_hair, sks"),
        ("photo of {sks|a woman} in a {park|{a|b} street|shop}", "photo of sks in a park"),
        ("sks, 1girl ||| red hair, __color__ hat", "sks, 1girl, red hair, hat"),
        ("sks &amp; &quot;red&quot; hair", 'sks & "red" hair'),
        ("A MAN AND A WOMAN", "A MAN AND A WOMAN"),
        ("saber (fate), brand, BREAKFAST, ^_^, sks's", "saber (fate), brand, BREAKFAST, ^_^, sks's"),
    ],
)
def test_prompt_syntax_is_taken_out(caption: str, expected: str) -> None:
    assert edited(caption, [plain()], Counter()).strip() == expected


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
        lambda: edit_of({"operation": "add", "tags": "a" * 10_001}),
    ],
)
def test_what_cannot_be_meant_is_told(make: Callable[[], object]) -> None:
    with pytest.raises(LoraTrainError) as told:
        make()
    assert told.value.problems[0].fix


def test_a_pattern_that_never_ends_is_told_with_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patterns, "SECONDS", 0.5)
    with pytest.raises(LoraTrainError, match=r"replace '\(a\+\)\+\$' by 'x': the pattern takes too long"):
        edited("a" * 60 + "!", [replace("(a+)+$", "x")], COUNTS)


def test_one_process_replaces_in_all_captions(monkeypatch: pytest.MonkeyPatch) -> None:
    started = []
    run = subprocess.run
    monkeypatch.setattr(subprocess, "run", lambda *given, **options: started.append(1) or run(*given, **options))  # type: ignore[func-returns-value, call-overload]
    edit = replace("[ab]z", "x")
    started.clear()
    assert all_edited(["az, q", "bz", "q"] * 50, [edit], COUNTS) == ["x, q\n", "x\n", "q"] * 50
    assert len(started) == 1


def test_a_blacklist_of_many_stars_ends() -> None:
    tag = "a" * 3000
    assert edited(tag, [blacklist(["*a" * 1000 + "*b", "b*", "*ab*"])], COUNTS) == tag
    assert edited(tag, [blacklist(["a*" * 1000 + "*a"])], COUNTS) == "\n"


@pytest.mark.parametrize(
    ("pattern", "gone"),
    [("a*a", "aa aba"), ("*ab*", "ab aba xab"), ("a*b*a", "aba"), ("a**", "a aa ab aba"), ("*", "a aa ab aba xab")],
)
def test_a_star_is_any_characters_and_none(pattern: str, gone: str) -> None:
    tags = ["a", "aa", "ab", "aba", "xab"]
    kept = [tag for tag in tags if tag not in gone.split()]
    assert edited(", ".join(tags), [blacklist([pattern])], COUNTS).strip() == ", ".join(kept)


def test_every_operation_is_in_the_table() -> None:
    assert set(OPERATIONS) == {"add", "remove", "replace", "reorder", "deduplicate", "blacklist", "plain"}
    assert isinstance(OPERATIONS["add"](["x"], where="back"), Edit)


def test_the_table_of_changes_is_that_of_the_functions() -> None:
    assert [one.operation for one in EDITS] != [] and {one.operation for one in EDITS} == {*OPERATIONS}
    for one in EDITS:
        assert one.options == tuple(inspect.signature(OPERATIONS[one.operation]).parameters), one.operation
    places, orders = find("captions.where").about.choices, find("captions.order").about.choices
    for place in places:
        assert edit_of({"operation": "add", "tags": "a", "where": place})
    for order in orders:
        assert edit_of({"operation": "reorder", "order": order})
    with pytest.raises(LoraTrainError, match="Choose front or back"):
        edit_of({"operation": "add", "tags": "a", "where": "middle"})

"""A captioner's raw words become one line; the table says how."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_train.errors import LoraTrainError
from lora_train.pictures.tags import clean_caption, clean_tags, same_form, split_parts, unique, without
from lora_train.pictures.template import merge


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("a woman in a park, with a hat, smiling", "woman in a park"),
        ("a panda on a car", "panda on a car"),
        ("A panda", "panda"),
        ("an apple on the table", "apple on the table"),
        ("the the band", "the band"),
        ("The Beatles", "Beatles"),
        ("panda", "panda"),
        ("anaconda in a tree", "anaconda in a tree"),
        ("theatre at night", "theatre at night"),
        ("a-frame house", "a-frame house"),
        ("area 51", "area 51"),
        ("  a\twoman \n in  a park ", "woman in a park"),
        ("a", ""),
        ("", ""),
        (" , ,", ""),
        (", a dog", "dog"),
        ("the, red", ""),
        ("дом у реки", "дом у реки"),
        ("a café", "café"),
        ("banana a day", "banana a day"),
    ],
)
def test_captions(raw: str, expected: str) -> None:
    assert clean_caption(raw) == expected


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("1girl, long_hair", ["1girl", "long hair"]),
        ("(long_hair:0.987), (smile:1)", ["long hair", "smile"]),
        ("((smile)), [sad], {{happy}}", ["smile", "sad", "happy"]),
        ("((smile:1.2))", ["smile"]),
        ("(smile:.5), ( hat : 1.05 )", ["smile", "hat"]),
        (r"saber_\(fate\)", ["saber (fate)"]),
        (r"(saber_\(fate\):0.91)", ["saber (fate)"]),
        ("saber_(fate)", ["saber (fate)"]),
        ("(saber_(fate):1.1)", ["saber (fate)"]),
        ("(red hair, blue eyes:1.2), hat", ["red hair", "blue eyes", "hat"]),
        ("(red hair, (blue eyes)), hat", ["red hair", "blue eyes", "hat"]),
        ("[red hair, blue eyes], hat", ["red hair", "blue eyes", "hat"]),
        ("a (red:1.3) ball", ["a red ball"]),
        ("^_^, >_<, o_o, (o)_(o)", ["^_^", ">_<", "o_o", "(o)_(o)"]),
        (r"\\m/, :d, :3, d:", [r"\m/", ":d", ":3", "d:"]),
        ("(:d:0.7)", [":d"]),
        (r":\(, \(sad\)", [":(", "(sad)"]),
        ("smile, Smile, SMILE, long_hair, long hair", ["smile", "long hair"]),
        (" , ,smile,, ", ["smile"]),
        ("", []),
        ("(), [], ((", []),
        ("smile)", ["smile"]),
        ("(((smile:1.2), hat:0.9), (a (b) c):+.5)", ["smile", "hat", "a (b) c"]),
        ("(a:1.2.3), (b: 1.10 )", ["a:1.2.3", "b"]),
        ("year 2000:1", ["year 2000:1"]),
        ("fate/stay_night", ["fate/stay night"]),
        ("длинные_волосы", ["длинные волосы"]),
    ],
)
def test_tags(raw: str, expected: list[str]) -> None:
    assert clean_tags(raw) == expected


@pytest.mark.parametrize(
    "raw", ["(" * 100_000, "(()" * 50_000, "(:" + "1" * 100_000 + ")" * 9, "[" * 50_000 + "]" * 50_000]
)
def test_brackets_of_any_number_are_read_in_one_go(raw: str) -> None:
    assert len(clean_tags(raw)) <= 1


@pytest.mark.parametrize(
    ("limit", "blacklist", "expected"),
    [
        (0, [], ["1girl", "long hair", "red hair", "smile"]),
        (2, [], ["1girl", "long hair"]),
        (9, [], ["1girl", "long hair", "red hair", "smile"]),
        (-1, [], ["1girl", "long hair", "red hair", "smile"]),
        (2, ["1GIRL"], ["long hair", "red hair"]),
        (0, ["long_hair", " smile "], ["1girl", "red hair"]),
        (0, ["*hair"], ["1girl", "smile"]),
        (0, ["hair", ""], ["1girl", "long hair", "red hair", "smile"]),
        (0, ["*"], []),
        (0, ["1.irl"], ["1girl", "long hair", "red hair", "smile"]),
    ],
)
def test_limit_and_blacklist(limit: int, blacklist: list[str], expected: list[str]) -> None:
    assert clean_tags("1girl, long_hair, red_hair, 1girl, smile", limit, blacklist) == expected


@pytest.mark.parametrize(
    ("tag", "caption", "tags", "template", "expected"),
    [
        ("sara", "woman", ["hat"], "{tag}, {caption}, {tags}", "sara, woman, hat"),
        ("", "woman", ["hat"], "{tag}, {caption}, {tags}", "woman, hat"),
        ("sara", "", ["hat"], "{tag}, {caption}, {tags}", "sara, hat"),
        ("sara", "woman", [], "{tag}, {caption}, {tags}", "sara, woman"),
        ("", "", [], "{tag}, {caption}, {tags}", ""),
        ("sara, ", "woman", [], "{tag}, {caption}, {tags}", "sara, woman"),
        ("sara, woman", "Woman", ["woman", "sara"], "{tag}, {caption}, {tags}", "sara, woman"),
        ("sara", "photo of sara", [], "{tag}, {caption}, {tags}", "sara, photo of sara"),
        ("sara", "woman", ["1girl, hat", " hat"], "{tag}, {caption}, {tags}", "sara, woman, 1girl, hat"),
        ("sara", "woman", ["hat"], "{tags}, {tag}", "hat, sara"),
        ("sara", "woman", ["hat"], "photo of {tag}, {caption}", "photo of sara, woman"),
        ("", "woman", ["hat"], "photo of {tag}, {caption}", "woman"),
        ("sara", "woman", [], "{tag} {caption}, best quality", "sara woman, best quality"),
        ("sara", "woman", [], "{{x}} {tag}", "{x} sara"),
        ("sara", "{tag}", [], "{caption}", "{tag}"),
        ("sara", "woman", [], "{tag}{caption},,", "sarawoman"),
        ("sara", "woman", [], "", ""),
        ("sara", "two\nlines", [], "{tag}, {caption}, {tags}", "sara, two lines"),
    ],
)
def test_merging(tag: str, caption: str, tags: list[str], template: str, expected: str) -> None:
    assert merge(tag, caption, tags, template) == expected


@pytest.mark.parametrize(
    ("template", "named"),
    [
        ("{tag}, {colour}", r"\{colour\}"),
        ("{}, {0}, {0}", r"\{\}, \{0\}\."),
        ("{tag.__class__}", r"\{tag\.__class__\}"),
        ("{tag[0]}", r"\{tag\[0\]\}"),
        ("{tag!r}", r"\{tag!r\}"),
        ("{caption}" * 112, "longer than 1000 characters"),
        ("{tag:>999999999}", r"\{tag:>999999999\}"),
        ("{tag, caption}", r"\{tag, caption\}"),
        ("{tag", "malformed"),
        ("tag}", "malformed"),
    ],
)
def test_a_template_with_other_placeholders_is_refused(template: str, named: str) -> None:
    with pytest.raises(LoraTrainError, match=named):
        merge("sara", "woman", [], template)


words = st.text(alphabet="ab_ ,()[]\\:1.é", max_size=30)


@given(words, words, words)
def test_a_merged_caption_is_stable(tag: str, caption: str, tags: str) -> None:
    line = merge(tag, clean_caption(caption), clean_tags(tags))
    parts = split_parts(line)
    assert line == ", ".join(parts) and parts == unique(parts)
    assert merge("", line, []) == line
    if leading := split_parts(tag):
        assert same_form(parts[0]) == same_form(leading[0])


@given(words)
def test_cleaning_tags_twice_changes_nothing_but_brackets_and_escapes(text: str) -> None:
    tags = clean_tags(text)
    assert all(tag == " ".join(tag.split()) != "" for tag in tags)
    assert len(set(map(same_form, tags))) == len(tags)
    assert without(tags, tags) == []

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_train.prompt.syntax import LoraTag, parse_prompt


@pytest.mark.parametrize(
    ("prompt", "text", "tags"),
    [
        ("a cat", "a cat", []),
        ("a <lora:x> cat", "a cat", [("x", 1.0, 1.0)]),
        ("<lora:x:0.8>a", "a", [("x", 0.8, 0.8)]),
        ("a <lora:x:0.5:1.0>", "a", [("x", 0.5, 1.0)]),
        ("a <lora:x:te=0.2:unet=0.4>", "a", [("x", 0.2, 0.4)]),
        ("a <lora:x:0.9:unet=0.4>", "a", [("x", 0.9, 0.4)]),
        ("<lora:x:1:0.5:64>", "", [("x", 1.0, 0.5, 64)]),
        ("<lora:x:dyn=8>", "", [("x", 1.0, 1.0, 8)]),
        ("a <LORA:x:1>, b <lyco:y:-0.5>", "a , b", [("x", 1.0, 1.0), ("y", -0.5, -0.5)]),
        ("<lora:x:1> <lora:x:1>", "", [("x", 1.0, 1.0), ("x", 1.0, 1.0)]),
        ("<lora:my lora v1.2:1>", "", [("my lora v1.2", 1.0, 1.0)]),
        ("<lora:عربي/猫:1>", "", [("عربي/猫", 1.0, 1.0)]),
        (r"a \<lora:x:1>", "a <lora:x:1>", []),
        ("a < b", "a < b", []),
        ("<b>a</b>", "<b>a</b>", []),
        ("<lora: x : 0.5 >", "", [("x", 0.5, 0.5)]),
    ],
)
def test_forms(prompt: str, text: str, tags: list[tuple[Any, ...]]) -> None:
    parsed = parse_prompt(prompt)
    assert parsed.text == text
    assert parsed.tags == tuple(LoraTag(*tag) for tag in tags)
    assert parsed.notes == ()


@pytest.mark.parametrize(
    "tag",
    [
        "<lora:>",
        "<lora::1>",
        "<lora:x:strong>",
        "<lora:x:nan>",
        "<lora:x:1:1:1:1>",
        "<lora:x:1:1:0>",
        "<lora:x:dyn=a>",
        "<lora:x:a=1>",
        "<lora>",
        "<lora:x:>",
        "<lora:x:1e999>",
        "<hypernet:x:1>",
        "<segment-anything:1>".replace("-", "_"),
    ],
)
def test_what_is_not_understood_is_noted_and_taken_out(tag: str) -> None:
    parsed = parse_prompt(f"a {tag} b")
    assert parsed.text == "a b" and parsed.tags == ()
    assert len(parsed.notes) == 1 and tag in parsed.notes[0]


def test_the_default_strength() -> None:
    assert parse_prompt("<lora:x>", default=0.6).tags == (LoraTag("x", 0.6, 0.6),)


@given(st.text(max_size=80))
def test_any_text_is_parsed(text: str) -> None:
    parsed = parse_prompt(text)
    assert all(tag.name for tag in parsed.tags)


names = st.text(st.characters(blacklist_characters="<>:\\", blacklist_categories=["Cs"]), min_size=1).map(str.strip)


@given(names.filter(bool), st.floats(-5, 5), st.floats(-5, 5))
def test_a_written_tag_is_read_back(name: str, te: float, unet: float) -> None:
    if "=" in name:
        return
    assert parse_prompt(f"<lora:{name}:{te!r}:{unet!r}>").tags == (LoraTag(name, te, unet),)


@pytest.mark.parametrize(
    ("tag", "instead"),
    [("<lora:x:0,8>", "write 0.8"), ("<lora:x:80%>", "write 0.8"), ("<lora:x:0@0,1@1>", "change over the steps")],
)
def test_what_could_be_meant_is_said(tag: str, instead: str) -> None:
    assert instead in parse_prompt(tag).notes[0]


@pytest.mark.parametrize("strength", ["07", "1e9", "-7", "1:9", "te=3"])
def test_an_unusual_strength_is_said(strength: str) -> None:
    parsed = parse_prompt(f"a <lora:x:{strength}>")
    assert len(parsed.tags) == 1 and "is unusual; 1 is usual" in parsed.notes[0]


@pytest.mark.parametrize(("strength", "applied"), [("1e9", 1000), ("-1e30", -1000), ("1:4000", 1000), ("1000", 1000)])
def test_a_strength_that_makes_no_picture_is_limited_and_said(strength: str, applied: float) -> None:
    parsed = parse_prompt(f"a <lora:x:{strength}>")
    assert parsed.tags[0].unet == applied and f"counts as {applied}, the most that is applied" in parsed.notes[0]


@pytest.mark.parametrize("prompt", ["a <lora:<lora:x:1>:1>", "<hypernet:<lora:x>> a", "a <lora:<lora:<lora:x>:1>>"])
def test_nothing_of_nested_tags_is_left(prompt: str) -> None:
    parsed = parse_prompt(prompt)
    assert parsed.text == "a" and [tag.name for tag in parsed.tags] == ["x"] and parsed.notes


def test_a_tag_that_is_not_closed_is_said() -> None:
    parsed = parse_prompt("a <lora:x:1")
    assert parsed.text == "a <lora:x:1" and parsed.tags == ()
    assert parsed.notes == ("<lora:x:1 has no > and is read as words.",)


@pytest.mark.parametrize("path", ["C:\\loras\\sara.safetensors", "d:/loras/sara.safetensors"])
def test_a_drive_is_part_of_the_name(path: str) -> None:
    (tag,) = parse_prompt(f"a <lora:{path}:0.5:1>").tags
    assert (tag.name, tag.te, tag.unet) == (path, 0.5, 1)
    assert parse_prompt("<lora:C:0.5>").tags[0].name == "C"


def test_which_notes_are_about_a_lora_that_is_left_out() -> None:
    parsed = parse_prompt("a <lora:x:0,8> <hypernet:y:1> <lora:z:7> <lora:w:1>")
    assert len(parsed.notes) == 3 and [note.split()[0] for note in parsed.refused] == ["<lora:x:0,8>"]

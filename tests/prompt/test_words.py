"""What is drawn of a prompt with the WebUI's syntax, and what is said of the rest."""

from __future__ import annotations

import doctest

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_train.prompt import words
from lora_train.prompt.syntax import parse_prompt
from lora_train.prompt.words import words_of


def test_the_examples() -> None:
    assert doctest.testmod(words).failed == 0


@pytest.mark.parametrize(
    ("prompt", "drawn", "said"),
    [
        ("a cat, on a chair", "a cat, on a chair", None),
        ("12:30, a: b | c, a) b]", "12:30, a: b | c, a) b]", None),
        (r"cat \(1998\) \[x\]", "cat (1998) [x]", None),
        ("a (cat", "a (cat", None),
        ("a [cat (b:1", "a [cat (b:1", None),
        ("(a:1.0)", "a", None),
        ("bandana BREAKFAST land", "bandana BREAKFAST land", None),
        ("(a cat:1.2), b", "a cat, b", "(a cat:1.2): weights of words are not supported"),
        ("((a)) [b]", "a b", "(a): weights"),
        ("(a:b:.5)", "a:b", "weights"),
        ("(a [b:c:0.5]:1.3) d", "a c d", "[b:c:0.5]: changes over the steps are not supported here; 'c' is drawn"),
        ("[a:b:0.5]", "b", "changes"),
        ("[a::5]", "a", "changes"),
        ("[:b:3]", "b", "changes"),
        ("[b: 0.5 ] c", "b c", "changes"),
        ("mascot [:0.5]", "mascot", "[:0.5]: changes over the steps are not supported here; its content counts"),
        ("mascot [::5]", "mascot", "changes"),
        ("[a|b|c] d", "a d", "'a' is drawn in all steps"),
        ("[mascot|]", "mascot", "changes"),
        ("mascot BREAK tree", "mascot tree", "BREAK is left out"),
        ("a cat :1.2 AND a tree: 0.5", "a cat a tree", "AND is left out"),
        ("a AND_PERP b ADDCOL c", "a b c", "AND_PERP, ADDCOL"),
        ("a __colour__ cat", "a __colour__ cat", "'__colour__': wildcards"),
        ("a {red|blue} cat", "a {red|blue} cat", "'{red|blue}': wildcards"),
    ],
)
def test_words(prompt: str, drawn: str, said: str | None) -> None:
    found = words_of(prompt)
    assert found.text == drawn
    assert len(found.notes) >= 1 if said else found.notes == ()
    assert said is None or any(said in note for note in found.notes)


@pytest.mark.parametrize("prompt", ["a [<lora:x:1>:0.5]", "a [<lora:x:1>::5]", "[a|<lora:x:1>]", "(a <lora:x:1>:1.2)"])
def test_no_syntax_around_a_tag_is_drawn(prompt: str) -> None:
    found = words_of(parse_prompt(prompt).text)
    assert found.text == "a" and len(found.notes) == 1


@given(st.text(st.sampled_from("ab ()[]:|\\.15AND"), max_size=60))
def test_any_text_has_words(text: str) -> None:
    found = words_of(text)
    assert len(found.text) <= len(text)


def test_deep_nesting_is_read() -> None:
    assert words_of("(" * 20_000 + "a" + ")" * 20_000).text == "a"
    assert words_of("[" * 20_000 + "a").text == "[" * 20_000 + "a"

r"""Weights of words: the WebUI's own examples (`parse_prompt_attention` in `modules/prompt_parser.py`), and by hand."""

from __future__ import annotations

import pytest

from lora_train.pictures.weights import plain_words, weighted_parts


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("normal text", [("normal text", 1.0)]),
        ("an (important) word", [("an ", 1.0), ("important", 1.1), (" word", 1.0)]),
        ("(unbalanced", [("unbalanced", 1.1)]),
        (r"\(literal\]", [("(literal]", 1.0)]),
        ("(unnecessary)(parens)", [("unnecessaryparens", 1.1)]),
        (
            "a (((house:1.3)) [on] a (hill:0.5), sun, (((sky))).",
            [
                ("a ", 1.0),
                ("house", 1.5730000000000004),
                (" ", 1.1),
                ("on", 1.0),
                (" a ", 1.1),
                ("hill", 0.55),
                (", sun, ", 1.1),
                ("sky", 1.4641000000000006),
                (".", 1.1),
            ],
        ),
        ("", []),
        ("12:30) o'clock", [("12:30) o'clock", 1.0)]),
    ],
)
def test_they_are_those_of_the_webui(text: str, expected: list[tuple[str, float]]) -> None:
    found = weighted_parts(text)
    assert [piece for piece, _ in found] == [piece for piece, _ in expected]
    assert [weight for _, weight in found] == pytest.approx([weight for _, weight in expected])
    assert plain_words(text) == "".join(piece for piece, _ in expected)

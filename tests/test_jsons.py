from __future__ import annotations

import json
import math

import pytest

from lora_train.jsons import read_json, to_json


def test_numbers_are_finite_or_null() -> None:
    text = to_json({"a": math.nan, "b": [1.5, -math.inf, (math.inf, 2)], "c": {"d": math.nan}, "e": True})
    assert json.loads(text) == {"a": None, "b": [1.5, None, [None, 2]], "c": {"d": None}, "e": True}


def test_a_name_that_is_not_utf_8_comes_back() -> None:
    text = to_json({"file": "b\udce4r.png", "other": "bär"})
    assert json.loads(text.encode("utf-8")) == {"file": "b\udce4r.png", "other": "bär"}


@pytest.mark.parametrize("depth", [1, 60])
def test_what_is_nested_a_little_is_read(depth: int) -> None:
    assert str(read_json("[" * depth + "]" * depth)).count("[") == depth


@pytest.mark.parametrize("text", ["[" * 200_000, "[" * 900 + "]" * 900, '{"a":' * 100 + "1" + "}" * 100, b"\xff", "{"])
def test_what_cannot_be_read_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError):
        read_json(text)


def test_what_is_said_twice_is_no_json_that_can_be_read() -> None:
    assert read_json('{"a": {"b": 1}, "b": {"b": 2}}') == {"a": {"b": 1}, "b": {"b": 2}}
    for text in ('{"a": 1, "a": 2}', '{"x": [{"a": 1, "b": 0, "a": 1}]}'):
        with pytest.raises(ValueError, match="'a' is there twice"):
            read_json(text)

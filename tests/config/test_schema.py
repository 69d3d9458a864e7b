"""The JSON schema of a run's options, against documents that are right and wrong."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from typing import Any

import pytest

from lora_train.config import RunConfig
from lora_train.config.schema import schema
from lora_train.config.table import options
from lora_train.errors import LoraTrainError
from lora_train.jsons import to_json

SCHEMA = json.loads(to_json(schema()))
FULL = RunConfig.from_dict(
    {
        "data": {"folder": "é", "resolution": 704, "flip_aug": True},
        "prepare": {"operations": ["face"], "captioner_command": ["a b", "{picture}"]},
        "network": {"block_dims": [1] * 25, "block_alphas": [0.5] * 25, "network_rules": ["a{1,2}: off"]},
        "train": {"learning_rate": 1e-7, "seed": 2**63 - 1, "zero_terminal_snr": False},
    }
)
WRONG: list[dict[str, Any]] = [
    {"train": {"seed": "7"}},
    {"train": {"seed": 1.5}},
    {"train": {"seed": None}},
    {"train": {"seed": True}},
    {"train": {"seed": -1}},
    {"train": {"max_train_steps": 0}},
    {"train": {"optimizer": "sophia"}},
    {"train": {"weight_decay": 1.01}},
    {"train": {"sed": 7}},
    {"train": []},
    {"trains": {}},
    {"version": 2},
    {"data": {"flip_aug": 1}},
    {"data": {"folder": None}},
    {"prepare": {"operations": "face"}},
    {"prepare": {"operations": ["fase"]}},
    {"network": {"block_dims": [1.5]}},
]
RIGHT: list[dict[str, Any]] = [
    {},
    {"train": {}},
    {"train": {"max_train_steps": None, "learning_rate": 1, "gradient_checkpointing": None}},
    RunConfig().to_dict(),
    FULL.to_dict(),
]
TYPES = {
    "integer": lambda one: isinstance(one, int) and not isinstance(one, bool),
    "number": lambda one: isinstance(one, (int, float)) and not isinstance(one, bool),
    "string": lambda one: isinstance(one, str),
    "boolean": lambda one: isinstance(one, bool),
    "array": lambda one: isinstance(one, list),
    "object": lambda one: isinstance(one, dict),
    "null": lambda one: one is None,
}


def faults(wanted: dict[str, Any], value: Any) -> Iterator[str]:
    """What is wrong with `value`, as draft 2020-12 has it, of the few words that are used here."""
    kinds = wanted.get("type", [*TYPES])
    if not any(TYPES[kind](value) for kind in ([kinds] if isinstance(kinds, str) else kinds)):
        yield "type"
        return
    if "const" in wanted and value != wanted["const"]:
        yield "const"
    if "enum" in wanted and value not in wanted["enum"]:
        yield "enum"
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if number and not wanted.get("minimum", value) <= value <= wanted.get("maximum", value):
        yield "range"
    if isinstance(value, list):
        for item in value:
            yield from faults(wanted.get("items", {}), item)
    if isinstance(value, dict):
        for name, inner in value.items():
            if name in wanted.get("properties", {}):
                yield from faults(wanted["properties"][name], inner)
            elif wanted.get("additionalProperties") is False:
                yield name


def plain(document: dict[str, Any]) -> Any:
    return json.loads(to_json(document))


@pytest.mark.parametrize("document", RIGHT)
def test_right_documents_are_taken(document: dict[str, Any]) -> None:
    assert [*faults(SCHEMA, plain(document))] == []
    RunConfig.from_dict(plain(document))


@pytest.mark.parametrize("document", WRONG)
def test_wrong_documents_are_refused(document: dict[str, Any]) -> None:
    from lora_train.config import problems

    assert len([*faults(SCHEMA, document)]) == 1
    before = {problem.where for problem in problems(RunConfig())}
    try:  # the program refuses it as well
        found = {problem.where for problem in problems(RunConfig.from_dict(document))} - before
    except LoraTrainError as error:
        found = {problem.where for problem in error.problems}
    assert len(found) == 1


@pytest.mark.skipif(importlib.util.find_spec("jsonschema") is None, reason="jsonschema is not installed")
def test_an_independent_reader_says_the_same() -> None:
    from jsonschema import Draft202012Validator

    Draft202012Validator.check_schema(SCHEMA)
    reader = Draft202012Validator(SCHEMA)
    for document in RIGHT:
        assert reader.is_valid(plain(document))
    for document in WRONG:
        assert not reader.is_valid(document), document


def test_each_option_is_described_as_its_table_says() -> None:
    for option in options():
        said = SCHEMA["properties"][option.section]["properties"][option.name]
        assert said["title"] == option.about.label and option.about.help[1:] in said["description"]
        assert said["default"] == plain({"": option.default})[""] and [*faults(said, said["default"])] == []
        assert (said.get("minimum"), said.get("maximum")) == (option.about.range or (None, None))
        assert said.get("x-kohya", []) == [*option.about.kohya]
    assert SCHEMA["$schema"] == "https://json-schema.org/draft/2020-12/schema"

"""All options of a run as a JSON schema (draft 2020-12), made from their table, for the API and `--config`."""

from __future__ import annotations

from typing import Any

from lora_train.config.option import FIRST
from lora_train.config.run import VERSION
from lora_train.config.table import Option, in_section, options
from lora_train.config.values import item_type, may_be_none, plain_type
from lora_train.config.wording import concerns, sentence

DIALECT = "https://json-schema.org/draft/2020-12/schema"
_TYPES = {int: "integer", float: "number", bool: "boolean", str: "string"}


def schema() -> dict[str, Any]:
    """The schema of `RunConfig.to_dict()`. Options not in a document have their defaults.

    Names that start with "x-" are this program's own: an option's heading and level, and its names in sd-scripts.
    """
    sections: dict[str, dict[str, Any]] = {}
    for option in options():
        sections.setdefault(option.section, {})[option.name] = _option(option)
    properties = {
        "version": {"const": VERSION, "default": VERSION, "description": "Version of this format."},
        **{name: _object(members) for name, members in sections.items()},
    }
    return {"$schema": DIALECT, "title": "Options of a LoRA training", **_object(properties)}


def command_schema(section: str) -> dict[str, Any]:
    """The schema of one command's options: "generate", "captions"."""
    properties = {option.name: _option(option) for option in in_section(section)}
    return {"$schema": DIALECT, "title": f"Options of {section}", **_object(properties)}


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "additionalProperties": False}


def _option(option: Option) -> dict[str, Any]:
    about, item = option.about, item_type(option.hint)
    default = list(option.default) if item else option.default
    said: dict[str, Any] = {"title": about.label, "description": _description(option), "default": default}
    if item:
        values: dict[str, Any] = {"type": _TYPES[item]}
        if about.choices:
            values["enum"] = list(about.choices)
        said |= {"type": "array", "items": values}
    else:
        none = may_be_none(option.hint)
        kind = _TYPES[plain_type(option.hint)]
        said["type"] = [kind, "null"] if none else kind
        if about.choices:
            said["enum"] = [*about.choices, *([None] if none else [])]
        if about.range:
            said["minimum"], said["maximum"] = about.range
    said |= {"x-group": about.group, "x-level": about.level}
    return said | ({"x-kohya": list(about.kohya)} if about.kohya else {})


def _description(option: Option) -> str:
    about = option.about
    parts = [sentence(about.help)]
    if about.unset and about.level != FIRST:  # these are chosen at the command line and on the page alone
        parts.append(f"{'null' if option.default is None else 'empty'}: {about.unset}")
    return ". ".join([*parts, *filter(None, [concerns(option)])])

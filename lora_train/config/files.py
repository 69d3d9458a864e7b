"""Options of a run in a file, JSON or TOML, and single ones as `section.name=value`."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from lora_train.atomic import write_text
from lora_train.config.presets import import_options, is_foreign
from lora_train.config.run import RunConfig, suggestion
from lora_train.config.table import find, in_section, known, options
from lora_train.config.values import parse_written
from lora_train.errors import LoraTrainError, Problem
from lora_train.jsons import read_json, to_json
from lora_train.tomls import toml_reader


def read_options(path: Path) -> tuple[RunConfig, list[str]]:
    """The options in `path` (.toml, else JSON), and a report on a file of another program: see `presets`.

    Options not in the file have their defaults. Raises LoraTrainError that names everything that is not understood.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        data = toml_reader(str(path)).loads(text) if _is_toml(path) else read_json(text)
        if not isinstance(data, dict):
            raise ValueError("it is not a table")
    except OSError as error:
        raise LoraTrainError(f"cannot read the options: {error.strerror}.", str(path), "Check the name.") from error
    except (ValueError, RecursionError) as error:
        form = "TOML" if _is_toml(path) else "JSON"
        raise LoraTrainError(f"this is not {form} ({error}).", str(path), "Correct the file.") from error
    try:
        if is_foreign(data):
            imported = import_options(data)
            return imported.config(), [*imported.lines()]
        return RunConfig.from_dict(data), []
    except LoraTrainError as error:
        inside = [replace(one, where=f"{path}, {_place(one.where)}") for one in error.problems]
        raise LoraTrainError.of(inside) from error


def write_config(path: Path, config: RunConfig) -> None:
    """Write all options to `path`, as TOML or JSON by its ending. Raises LoraTrainError."""
    write_text(path, _as_toml(config) if _is_toml(path) else to_json(config.to_dict(), indent=2) + "\n")


def set_options(config: RunConfig, given: list[str]) -> RunConfig:
    """`config` with each `section.name=value` of `given`; the last one of the same name applies.

    Raises LoraTrainError that names all that are not understood.
    """
    found: list[Problem] = []
    for text in given:
        path, equals, value = text.partition("=")
        path = path.strip()
        if not equals or not known(path):
            near = suggestion(path, [f"'{option.path}'" for option in options()])
            fix = near or "Give section.name=value, for example 'train.seed=7'."
            found.append(Problem(f"{text!r}: there is no such option.", "--set", fix))
            continue
        option = find(path)
        try:
            config = option.put(config, parse_written(option.hint, option.about.written, value.strip()))
        except ValueError as error:
            found.append(Problem(f"{text!r}: {error}.", "--set", "Give another value."))
    if found:
        raise LoraTrainError.of(found)
    return config


def _place(path: str) -> str:
    """The place of an option in a file; flags and labels do not occur there."""
    section, dot, name = path.partition(".")
    return f"[{section}] {name}" if dot else section


def _is_toml(path: Path) -> bool:
    return path.suffix.lower() == ".toml"


def _as_toml(config: RunConfig) -> str:
    """TOML has no None: such an option is written as a comment that says what happens without it."""
    lines = [f"version = {config.to_dict()['version']}"]
    for section in fields(config):
        lines += ["", f"[{section.name}]"]
        for option in in_section(section.name):
            value = option.of(config)
            left_open = f"# {option.name} is not given: {option.about.unset}"
            lines.append(left_open if value is None else f"{option.name} = {_toml_value(value)}")
    return "\n".join(lines) + "\n"


def _toml_value(value: Any) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(_toml_value(item) for item in value)}]"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return repr(value).lower() if isinstance(value, bool) else repr(value)

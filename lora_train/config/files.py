"""Options of a run or of another command in a file, JSON or TOML, and single ones as `section.name=value`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, TypeVar

from lora_train.atomic import write_text
from lora_train.config.presets import import_options, is_foreign
from lora_train.config.registered import Section, changed
from lora_train.config.run import VERSION, RunConfig, section_of, suggestion, unknown
from lora_train.config.table import Option, in_section, options
from lora_train.config.values import parse_written
from lora_train.errors import LoraTrainError, Problem
from lora_train.jsons import read_json, to_json
from lora_train.tomls import toml_reader
from lora_train.yamls import read_yaml

S = TypeVar("S", bound=Section)


def read_options(path: Path) -> tuple[RunConfig, list[str]]:
    """The options in `path` (.toml, .yaml, else JSON), and a report on a file of another program: see `presets`.

    Options not in the file have their defaults. Raises LoraTrainError that names everything that is not understood.
    """
    sections, lines = read_sections(path)
    return RunConfig.from_dict(sections), lines


def read_sections(path: Path) -> tuple[dict[str, Any], list[str]]:
    """The same as plain data, which has only the options that are in the file."""
    data = _content(path)
    with _inside(path):
        lines: list[str] = []
        if is_foreign(data):
            imported = import_options(data)
            data, lines = imported.sections(), [*imported.lines()]
        RunConfig.from_dict(data)
    return data, lines


def read_section(path: Path, kind: type[S]) -> S:
    """The options of one command in `path`, a file with this one section: `[generate]`.

    Raises LoraTrainError that names everything that is not understood.
    """
    data, found, section = _content(path), list[Problem](), kind()
    for name, part in data.items():
        if name == kind.section_name():
            section = section_of(kind, part, found)
        elif name != "version" or part != VERSION:
            found.append(unknown(name, str(name), [kind.section_name()]))
    with _inside(path):
        if found:
            raise LoraTrainError.of(found)
    return section


def _content(path: Path) -> dict[str, Any]:
    """The table in a file. Raises LoraTrainError."""
    form = _form(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
        data = _READ[form](text, str(path))
        if not isinstance(data, dict):
            raise ValueError("it is not a table")
    except OSError as error:
        raise LoraTrainError(f"cannot read the options: {error.strerror}.", str(path), "Check the name.") from error
    except (ValueError, RecursionError) as error:
        raise LoraTrainError(f"this is not {form} ({error}).", str(path), "Correct the file.") from error
    return data


@contextmanager
def _inside(path: Path) -> Iterator[None]:
    """Within the block, problems get the place in the file."""
    try:
        yield
    except LoraTrainError as error:
        inside = [replace(one, where=f"{path}, {_place(one.where)}") for one in error.problems]
        raise LoraTrainError.of(inside) from error


def write_config(path: Path, config: RunConfig) -> None:
    """Write all options to `path`, as TOML or JSON by its ending. Raises LoraTrainError."""
    write_text(path, _as_toml(config) if _form(path) == "TOML" else to_json(config.to_dict(), indent=2) + "\n")


def set_options(config: RunConfig, given: list[str]) -> RunConfig:
    """`config` with each `section.name=value` of `given`; the last one of the same name applies.

    Raises LoraTrainError that names all that are not understood.
    """
    values, found = read_settings(given, options())
    for option, value in values:
        config = option.put(config, value)
    if found:
        raise LoraTrainError.of(found)
    return config


def set_section(section: S, given: list[str]) -> S:
    """The same for the section of one command. Raises LoraTrainError that names all that are not understood."""
    values, found = read_settings(given, in_section(section.section_name()))
    if found:
        raise LoraTrainError.of(found)
    return changed(section, {option.name: value for option, value in values})


def read_settings(given: list[str], allowed: Sequence[Option]) -> tuple[list[tuple[Option, Any]], list[Problem]]:
    """`section.name=value` texts as options of `allowed` with their values, and all problems."""
    by_path, values, found = {option.path: option for option in allowed}, [], []
    for text in given:
        path, equals, value = text.partition("=")
        path = path.strip()
        if not equals or path not in by_path:
            near = suggestion(path, [f"'{one}'" for one in by_path])
            fix = near or f"Give section.name=value, for example '{_example(by_path)}'."
            found.append(Problem(f"{text!r}: there is no such option.", "--set", fix))
            continue
        option = by_path[path]
        try:
            values.append((option, parse_written(option.hint, option.about.written, value.strip())))
        except ValueError as error:
            found.append(Problem(f"{text!r}: {error}.", "--set", "Give another value."))
    return values, found


def _example(by_path: Mapping[str, Option]) -> str:
    path = next((path for path in ("train.seed", "generate.seed") if path in by_path), min(by_path))
    return f"{path}=7"


def _place(path: str) -> str:
    """The place of an option in a file; flags and labels do not occur there."""
    section, dot, name = path.partition(".")
    return f"[{section}] {name}" if dot else section


_READ: dict[str, Callable[[str, str], Any]] = {
    "TOML": lambda text, where: toml_reader(where).loads(text),
    "YAML": read_yaml,
    "JSON": lambda text, where: read_json(text),
}


def _form(path: Path) -> str:
    return {".toml": "TOML", ".yaml": "YAML", ".yml": "YAML"}.get(path.suffix.lower(), "JSON")


def _as_toml(config: RunConfig) -> str:
    """TOML has no None: such an option is written as a comment that says what happens without it."""
    lines = [f"version = {config.to_dict()['version']}"]
    for section in fields(config):
        lines += ["", f"[{section.name}]"]
        for option in in_section(section.name):
            value = option.of(config)
            left_open = f"# {option.name} is not given: {option.about.unset}"
            lines.append(left_open if value is None else f"{option.name} = {toml_value(value)}")
    return "\n".join(lines) + "\n"


def toml_value(value: Any) -> str:
    """A value as TOML writes it."""
    if isinstance(value, (tuple, list)):
        return f"[{', '.join(toml_value(item) for item in value)}]"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return repr(value).lower() if isinstance(value, bool) else repr(value)

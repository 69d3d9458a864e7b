"""`lora-train preset`: presets by name, those of other programs, and ours in sd-scripts' form."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from lora_train.config import RunConfig
from lora_train.config.files import read_sections
from lora_train.jsons import to_json
from lora_train.presets.kohya_form import write_kohya
from lora_train.presets.store import all_presets, delete_preset, load_preset, merged, save_preset


def add_preset(commands: Any) -> None:
    """The command "preset"."""
    preset = commands.add_parser(
        "preset",
        help="presets: list, save, show, delete, import from other programs, export to sd-scripts",
        description="Presets are used with train --preset NAME. Files of other programs: sd-scripts' --config_file, "
        "presets of the kohya_ss GUI, OneTrainer (.json) and ai-toolkit (.yaml, .json).",
    )
    inner = preset.add_subparsers(required=True, metavar="WHAT")
    inner.add_parser("list", help="all presets").set_defaults(run=_list)
    one = inner.add_parser("show", help="the options of a preset, as JSON for train --config")
    one.add_argument("name", metavar="NAME")
    one.set_defaults(run=_show)
    one = inner.add_parser("save", help="keep the options in a file, also another program's, as a preset")
    one.add_argument("name", metavar="NAME")
    one.add_argument("file", metavar="FILE", type=Path)
    one.set_defaults(run=_save)
    one = inner.add_parser("delete", help="remove a preset")
    one.add_argument("name", metavar="NAME")
    one.set_defaults(run=_delete)
    one = inner.add_parser("export", help="write a preset, or the options in a file, for sd-scripts")
    one.add_argument("source", metavar="NAME_OR_FILE")
    one.add_argument("file", metavar="OUT", type=Path, help=".toml or .json")
    one.set_defaults(run=_export)


def started_from(preset: str | None, file: str | None) -> tuple[RunConfig, list[str]]:
    """The options of --preset and then of --config, and the report on the file of another program.

    Raises LoraTrainError that names everything that is not understood.
    """
    layers: list[dict[str, Any]] = [load_preset(_data(), preset)] if preset is not None else []
    lines: list[str] = []
    if file is not None:
        sections, lines = read_sections(Path(file).expanduser())
        layers.append(sections)
    return RunConfig.from_dict(merged(*layers)), lines


def keep_preset(name: str | None, kohya: str | None, config: RunConfig) -> None:
    """Do what --save-preset and --export-kohya ask for. Raises LoraTrainError."""
    if name is not None:
        _saved(name, config)
    if kohya is not None:
        path = Path(kohya).expanduser()
        _noted(write_kohya(path, config))
        print(f"Options   {path}", flush=True)


def _list(options: argparse.Namespace) -> int:
    for one in all_presets(_data()):
        print(f"{one.name:20}  {one.help}".rstrip())
    return 0


def _show(options: argparse.Namespace) -> int:
    print(to_json(load_preset(_data(), options.name), indent=2))
    return 0


def _save(options: argparse.Namespace) -> int:
    sections, lines = read_sections(options.file.expanduser())
    _noted(lines)
    _saved(options.name, RunConfig.from_dict(sections))
    return 0


def _delete(options: argparse.Namespace) -> int:
    delete_preset(_data(), options.name)
    print(f"Deleted: {options.name}")
    return 0


def _export(options: argparse.Namespace) -> int:
    source = Path(options.source).expanduser()
    sections, lines = read_sections(source) if source.is_file() else (load_preset(_data(), options.source), [])
    _noted([*lines, *write_kohya(options.file.expanduser(), RunConfig.from_dict(sections))])
    print(options.file)
    return 0


def _saved(name: str, config: RunConfig) -> None:
    _noted(
        [f"not in the preset, since it belongs to one training: {path}" for path in save_preset(_data(), name, config)]
    )
    print(f"Preset    {name}", flush=True)


def _noted(lines: list[str]) -> None:
    for line in lines:
        print(f"note: {line}", file=sys.stderr)


def _data() -> Path:
    from lora_train.hosts.standalone import StandaloneHost

    return StandaloneHost().data_dir()

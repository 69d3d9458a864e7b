"""Presets by name: ours, and the person's in the folder `presets` of the data folder."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora_train.atomic import write_json
from lora_train.config.run import RunConfig, suggestion
from lora_train.config.table import options
from lora_train.config.validate import name_problem
from lora_train.errors import LoraTrainError, Unknown
from lora_train.jsons import read_json

FOLDER = "presets"
Sections = dict[str, dict[str, Any]]
"""Options by section and name; those that are not in it are open."""

OF_ONE_TRAINING = frozenset(
    (
        *("data.folder", "data.in_json", "data.dataset_config", "data.mask_folder", "data.tag"),
        *("save.output_name", "save.output_dir", "save.overwrite", "save.training_comment"),
        *("preview.prompts", "network.network_weights", "prepare.captioner_command", "prepare.tagger_command"),
    )
)
"""Options that no preset has: the pictures, the name, and what runs a program."""


@dataclass(frozen=True)
class Preset:
    """A preset in the list."""

    name: str
    help: str
    ours: bool

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {"name": self.name, "help": self.help, "ours": self.ours}


OURS: dict[str, tuple[str, Sections]] = {
    "low-memory": (
        "Steps with the least memory: one picture at a time, activations computed again, the UNet alone",
        {
            "data": {"train_batch_size": 1},
            "train": {"gradient_checkpointing": True, "gradient_accumulation_steps": 2},
            "network": {"network_train_unet_only": True},
        },
    ),
    "prodigy": (
        "The optimizer finds the learning rate (needs the package prodigyopt)",
        {
            "train": {
                "optimizer": "prodigy",
                "learning_rate": 1.0,
                "optimizer_args": ["decouple=True", "use_bias_correction=True", "safeguard_warmup=True"],
                "lr_scheduler": "cosine",
            }
        },
    ),
    "small-file": (
        "A LoKr of a few megabytes",
        {"network": {"kind": "lokr", "network_dim": 16, "network_alpha": 8.0, "factor": 8}},
    ),
}
"""Ours: name, what it is for, and its options."""


def all_presets(data_dir: Path) -> list[Preset]:
    """Ours, then the person's by name."""
    own = sorted(path.stem for path in (data_dir / FOLDER).glob("*.json") if _named(path.stem))
    return [Preset(name, help, True) for name, (help, _) in OURS.items()] + [
        Preset(name, "", False) for name in own if name not in OURS
    ]


def load_preset(data_dir: Path, name: str) -> Sections:
    """The options of a preset. Raises Unknown where there is none, LoraTrainError where its file is damaged."""
    if name in OURS:
        return {section: dict(values) for section, values in OURS[name][1].items()}
    path = _path(data_dir, name)
    if not path.is_file():
        names = [one.name for one in all_presets(data_dir)]
        fix = suggestion(name, names) or f"There are: {', '.join(names)}."
        raise Unknown(f"there is no preset {name!r}.", "--preset", fix)
    try:
        content = read_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise LoraTrainError(f"this preset cannot be read ({error}).", str(path), "Save it again.") from error
    RunConfig.from_dict(content if isinstance(content, dict) else {"preset": content})
    return {section: values for section, values in content.items() if isinstance(values, dict)}


def save_preset(data_dir: Path, name: str, config: RunConfig) -> list[str]:
    """Save what `config` sets, without what belongs to one training. Returns the paths that are left out.

    Replaces the person's own preset of this name. Raises LoraTrainError.
    """
    if name in OURS:
        raise LoraTrainError(f"{name!r} is one of the program's own presets.", "--save-preset", "Give another name.")
    sections, left = set_values(config)
    path = _path(data_dir, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, sections)
    return left


def delete_preset(data_dir: Path, name: str) -> None:
    """Remove the person's own preset. Raises Unknown where there is none, LoraTrainError for ours."""
    if name in OURS:
        raise LoraTrainError(f"{name!r} is one of the program's own presets.", name, "It stays.")
    path = _path(data_dir, name)
    if not path.is_file():
        raise Unknown(f"there is no preset {name!r}.", name, "Check the list of presets.")
    path.unlink()


def set_values(config: RunConfig) -> tuple[Sections, list[str]]:
    """The options that are not at their defaults, and the paths of those that no preset has."""
    sections: Sections = {}
    left = []
    for option in options():
        value = option.of(config)
        if value == option.default:
            continue
        if option.path in OF_ONE_TRAINING:
            left.append(option.path)
        else:
            sections.setdefault(option.section, {})[option.name] = list(value) if isinstance(value, tuple) else value
    return sections, left


def merged(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Options of several files; a later one wins."""
    found: dict[str, Any] = {}
    for layer in layers:
        for section, values in layer.items():
            before = found.get(section)
            both = isinstance(before, dict) and isinstance(values, Mapping)
            found[section] = {**before, **values} if both else values  # type: ignore[dict-item]
    return found


def _named(name: str) -> bool:
    return re.fullmatch(r"\w[\w .+-]{0,60}", name) is not None and name_problem(name) is None


def _path(data_dir: Path, name: str) -> Path:
    if not _named(name):
        what = f"{name!r} cannot be the name of a preset."
        raise LoraTrainError(what, "--preset", "Use letters, digits, spaces, and . + - between them.")
    return data_dir / FOLDER / f"{name}.json"

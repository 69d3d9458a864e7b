"""kohya's dataset config (`--dataset_config`, TOML or JSON) as a list of folders and how to train on each.

After sd-scripts' `library/config_util.py`: a subset's value wins over its dataset's, that over [general].
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from lora_train.atomic import write_text
from lora_train.data.buckets import Size
from lora_train.errors import LoraTrainError, Problem
from lora_train.pictures.texts import decode_whole
from lora_train.tomls import toml_reader


@dataclass(frozen=True)
class Subset:
    """One folder of a dataset; defaults are kohya's. `where` is its place in the file."""

    where: str = ""
    image_dir: str = ""
    metadata_file: str = ""
    is_reg: bool = False
    num_repeats: int = 1
    class_tokens: str = ""
    caption_extension: str = ".caption"
    caption_prefix: str = ""
    caption_suffix: str = ""
    loss_weight: float = 1.0
    """Not kohya's: a factor on the loss of its pictures."""
    resolution: Size | None = None
    """Width and height."""
    dataset: int = 0
    """The number of its dataset."""
    own: Mapping[str, Any] = field(default_factory=dict)
    """What else it says of its pictures' training, by kohya's names (see TRAINING)."""


@dataclass(frozen=True)
class DatasetConfig:
    """The subsets in the file's order, and the keys that were not honoured ("datasets[0].color_aug")."""

    subsets: list[Subset]
    ignored: list[str] = field(default_factory=list)


_OWN = ("image_dir", "metadata_file", "is_reg", "class_tokens")
"""Read in a subset only."""
_DATASET_KINDS: dict[str, type] = {
    "batch_size": int,
    "enable_bucket": bool,
    "min_bucket_reso": int,
    "max_bucket_reso": int,
    "bucket_reso_steps": int,
    "bucket_no_upscale": bool,
}
_SUBSET_KINDS: dict[str, type] = {
    "shuffle_caption": bool,
    "keep_tokens": int,
    "keep_tokens_separator": str,
    "secondary_separator": str,
    "enable_wildcard": bool,
    "caption_tag_dropout_rate": float,
    "caption_dropout_every_n_epochs": int,
    "token_warmup_step": float,
    "token_warmup_min": int,
    "caption_dropout_rate": float,
    "flip_aug": bool,
}
TRAINING = {**_SUBSET_KINDS, **_DATASET_KINDS}
"""How a subset's pictures are trained, and the types of the values."""
_DATASET = ("resolution", *_DATASET_KINDS)
"""Read in a dataset or [general], not in a subset."""
_DESCRIBED: dict[str, type] = {
    f.name: type(f.default) for f in fields(Subset) if f.name not in ("where", "dataset", "resolution", "own")
}
_KINDS = {**_DESCRIBED, **TRAINING}
_POSITIVE = ("batch_size", "min_bucket_reso", "max_bucket_reso", "bucket_reso_steps")


def read_dataset_config(file: Path) -> DatasetConfig:
    """Read a dataset config. Paths are returned as written; their user checks them.

    Raises LoraTrainError with all mistakes together, or when this Python cannot read TOML.
    """
    data = _load(file)
    problems: list[Problem] = []
    ignored: list[str] = []
    subsets: list[Subset] = []
    general = _table(data, "general", problems)
    _note_ignored(general, "general", _OWN, ignored)
    ignored += [key for key in data if key not in ("general", "datasets")]
    for number, dataset in enumerate(_tables(data, "datasets", "", problems)):
        where = f"datasets[{number}]"
        _note_ignored(dataset, where, _OWN, ignored)
        for index, own in enumerate(_tables(dataset, "subsets", f"{where}.", problems)):
            place = f"{where}.subsets[{index}]"
            _note_ignored(own, place, _DATASET, ignored)
            wider = [(f"{where}.", dataset), ("general.", general)]
            subsets.append(_subset(place, number, own, wider, problems))
    if not subsets and not problems:
        problems.append(Problem("there is no [[datasets.subsets]] in this file.", str(file), "Add one with image_dir."))
    if problems:
        raise LoraTrainError.of(list(dict.fromkeys(problems)))
    return DatasetConfig(subsets, ignored)


def is_dataset_config(file: Path) -> bool:
    """Whether this is a dataset config rather than metadata, which may also be JSON."""
    if file.suffix.lower() != ".json":
        return file.suffix.lower() == ".toml"
    try:
        return isinstance(_load(file).get("datasets"), list)
    except LoraTrainError:
        return False


def write_dataset_config(file: Path, subsets: Iterable[Subset]) -> None:
    """Write a TOML of one dataset with buckets, and each subset's values that are not the default; atomically."""
    lines = ["[general]", "enable_bucket = true", "", "[[datasets]]"]
    for subset in subsets:
        lines += ["", "[[datasets.subsets]]"]
        for one in fields(Subset):
            value = getattr(subset, one.name)
            if one.name in _DESCRIBED and value != one.default:
                # JSON's strings, numbers and booleans are TOML's as well
                lines.append(f"{one.name} = {json.dumps(value, ensure_ascii=False)}")
    write_text(file, "\n".join(lines) + "\n")


def _subset(
    where: str, number: int, own: dict[str, Any], wider: list[tuple[str, dict[str, Any]]], problems: list[Problem]
) -> Subset:
    values: dict[str, Any] = {}
    for name in (*_KINDS, "resolution"):
        places = [] if name in _DATASET else [(f"{where}.", own)]
        places += [] if name in _OWN else wider
        for place, table in places:
            if table.get(name) is not None:
                values[name] = _value(name, table[name], place + name, problems)
                break
    if not values.get("image_dir") and not values.get("metadata_file"):
        problems.append(Problem("a subset needs image_dir or metadata_file.", where, "Name its folder."))
    training = {name: values.pop(name) for name in TRAINING if name in values}
    return Subset(where, **values, dataset=number, own=training)


def _value(name: str, value: object, where: str, problems: list[Problem]) -> Any:
    if name == "resolution":
        sides = value if isinstance(value, list) else [value, value]
        if len(sides) == 2 and all(type(side) is int and side > 0 for side in sides):
            return sides[0], sides[1]
        problems.append(Problem("this must be one positive whole number or two.", where, "Write 512 or [512, 768]."))
        return None
    kind = _KINDS[name]
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind:
        said = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}[kind]
        problems.append(Problem(f"this must be {said}, not {value!r}.", where, "Correct it."))
    elif kind in (int, float) and value < (1 if name in _POSITIVE else 0):  # type: ignore[operator]
        problems.append(Problem(f"this is too small: {value}.", where, "Correct it."))
    return value


def _note_ignored(table: dict[str, Any], where: str, elsewhere: tuple[str, ...], ignored: list[str]) -> None:
    known = {*_KINDS, "resolution", "subsets"} - set(elsewhere)
    ignored += [f"{where}.{key}" for key in table if key not in known]


def _table(data: dict[str, Any], name: str, problems: list[Problem]) -> dict[str, Any]:
    value = data.get(name, {})
    if isinstance(value, dict):
        return value
    problems.append(Problem("this must be a table.", name, f"Write [{name}]."))
    return {}


def _tables(data: dict[str, Any], name: str, prefix: str, problems: list[Problem]) -> list[dict[str, Any]]:
    value = data.get(name, [])
    if isinstance(value, list) and all(isinstance(item, dict) for item in value):
        return value
    problems.append(Problem("this must be a list of tables.", prefix + name, f"Write [[{name}]]."))
    return []


def _load(file: Path) -> dict[str, Any]:
    try:
        text = decode_whole(file.read_bytes()).replace("\r\n", "\n")
        data = json.loads(text) if file.suffix.lower() == ".json" else toml_reader("dataset config").loads(text)
        if not isinstance(data, dict):
            raise ValueError("it is not a table")
    except OSError as error:
        raise LoraTrainError(f"cannot read the dataset config: {error.strerror}.", str(file)) from error
    except (ValueError, RecursionError) as error:
        raise LoraTrainError(f"this is not a dataset config ({error}).", str(file), "Correct the file.") from error
    return data

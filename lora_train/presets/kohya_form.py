"""Our options in sd-scripts' form, as its `--config_file` and the kohya_ss GUI read them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lora_train.atomic import write_text
from lora_train.config.files import toml_value
from lora_train.config.network import network_arguments, network_module
from lora_train.config.run import RunConfig
from lora_train.config.table import Option, options
from lora_train.config.training_methods import OPTIMIZERS
from lora_train.config.values import may_be_none, plain_type
from lora_train.jsons import to_json
from lora_train.records.kinds import KINDS

OTHER_DEFAULTS = (
    "data.enable_bucket",
    "train.seed",
    "train.lr_scheduler",
    "train.optimizer",
    "save.save_precision",
)
"""Options whose default is another one in sd-scripts; they are always written."""
CAPTIONS = {"caption_extension": ".txt"}
"""sd-scripts' own default is .caption; both are read here."""
_NO_NAME = "sd-scripts has no such option."
_OPEN = "is left open: it is chosen automatically here, and has sd-scripts' default there."
_NO_FALSE = "sd-scripts cannot be told that it is off."


_WORDS = {
    "train.mixed_precision": {"fp32": "no"},
    "save.save_precision": {"fp32": "float"},
    "train.timestep_sampling": {"logit_normal": "sigmoid"},
}
"""Values that have another name there; the others' names are known there, whatever further ones there are."""


@dataclass
class Exported:
    """sd-scripts' options, and ours that it does not have."""

    values: dict[str, Any] = field(default_factory=dict)
    left: dict[str, str] = field(default_factory=dict)
    """The paths of options that are set here and not there, and why."""

    def lines(self) -> Iterator[str]:
        """What is not in the file, a line for each option."""
        for path, why in self.left.items():
            yield f"not exported: {path}: {why}"


def exported(config: RunConfig) -> Exported:
    """The run in sd-scripts' form. With the options of a run's folder (`resolved`) nothing is left open."""
    found = Exported(dict(CAPTIONS))
    arguments = _network(config, found)
    for option in options():
        value = option.of(config)
        if option.path in ("network.kind", "train.weight_decay") or option.name in arguments:
            continue
        if value is None:
            if option.about.kohya and option.path in _MATTERS:
                found.left[option.path] = _OPEN
        elif value != option.default or option.path in OTHER_DEFAULTS:
            _add(found, option, value)
    _weight_decay(config, found)
    if config.data.resolution and config.data.height:
        found.values["resolution"] = "{},{}".format(*config.data.size)
        del found.left["data.height"]
    if config.train.lr_scheduler == "constant" and config.train.lr_warmup_steps:
        found.values["lr_scheduler"] = "constant_with_warmup"  # its plain constant ignores the warm-up
    if config.train.lr_scheduler == "cosine" and config.train.lr_scheduler_min_lr_ratio:
        found.values["lr_scheduler"] = "cosine_with_min_lr"  # the only one that knows a minimum there
    return found


_MATTERS = frozenset(
    ("train.max_train_steps", "train.learning_rate", "network.network_dim", "network.network_alpha", "data.resolution")
)
"""Left open, these make another training there."""


def write_kohya(path: Path, config: RunConfig) -> list[str]:
    """Write the run for sd-scripts, as TOML or JSON by the file's ending. Returns lines on what is not in it.

    Raises LoraTrainError.
    """
    made = exported(config)
    toml = "".join(f"{name} = {toml_value(value)}\n" for name, value in made.values.items())
    write_text(path, toml if path.suffix.lower() == ".toml" else to_json(made.values, indent=2) + "\n")
    return [*made.lines()]


def _add(found: Exported, option: Option, value: Any) -> None:
    about = option.about
    if not about.kohya:
        found.left[option.path] = f"= {value}: {_NO_NAME}"
    elif plain_type(option.hint) is bool and may_be_none(option.hint) and value is False:
        found.left[option.path] = _NO_FALSE
    elif option.path == "train.mixed_precision" and value == "auto":
        found.left[option.path] = _OPEN
    elif option.path == "train.gradient_accumulation_steps" and value < 0:
        found.left[option.path] = "sd-scripts takes only a number of batches."
    else:
        value = _WORDS.get(option.path, {}).get(value, value) if isinstance(value, str) else value
        value = f"{value},{value}" if option.path == "data.resolution" else value
        found.values[about.kohya[0]] = value


def _network(config: RunConfig, found: Exported) -> set[str]:
    """The kind of network as module and arguments. Returns the names of our options that these contain."""
    network = config.network
    named = {one.name: one.about.kohya[0] for one in options() if one.section == "network" and one.about.kohya}
    found.values["network_module"] = network_module(network)
    arguments = {**network_arguments(network)}
    if network.dora_wd:  # the same values that LyCORIS has, or not at all
        arguments.setdefault("dora_wd", "True")
    written = {name: value for name, value in arguments.items() if name in named or name == "algo"}
    if written:
        found.values["network_args"] = [f"{named.get(name, name)}={value}" for name, value in written.items()]
    if KINDS[network.kind].module not in ("networks.lora", "lycoris.kohya"):
        found.left["network.kind"] = f"= {network.kind}: {_NO_NAME}"
    return {*written}


def _weight_decay(config: RunConfig, found: Exported) -> None:
    """It is one of the optimizer's arguments there."""
    decay = config.train.weight_decay
    arguments = [*config.train.optimizer_args]
    used = any("train.weight_decay" in method.options for method in OPTIMIZERS.active(config))
    if used and not any(one.partition("=")[0].strip() == "weight_decay" for one in arguments):
        found.values["optimizer_args"] = [*arguments, f"weight_decay={decay:g}"]

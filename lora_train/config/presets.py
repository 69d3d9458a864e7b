"""Options in the formats of other programs: sd-scripts' `--config_file` (TOML), presets of the kohya_ss GUI (JSON), and
those of `PROGRAMS`.

Nothing in such a file is dropped silently: each name is taken, or listed with the reason why not.
"""

from __future__ import annotations

import importlib
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from lora_train.config import kohya
from lora_train.config.arguments import OTHER_NAMES, algorithms, kind_named
from lora_train.config.imported import Imported, Share, as_text, is_off, kohya_names, number, take
from lora_train.config.run import NetworkOptions, RunConfig
from lora_train.config.table import COMMANDS, Option, find
from lora_train.config.usual import DEFAULT_DIM
from lora_train.errors import LoraTrainError

GUI_NAMES = {
    "max_resolution": "resolution",
    "optimizer": "optimizer_type",
    "lora_network_weights": "network_weights",
    "use_cp": "use_tucker",
    "constrain": "constraint",
    "epoch": "max_train_epochs",
    "sdxl_no_half_vae": "no_half_vae",
    "sdxl_cache_text_encoder_outputs": "cache_text_encoder_outputs",
    "stop_text_encoder_training_pct": "stop_text_encoder_training",
}
"""The GUI's names of sd-scripts' options."""

GUI_KINDS = {
    "standard": "lora",
    "kohya locon": "locon",
    "lycoris/locon": "locon",
    "lycoris/loha": "loha",
    "lycoris/lokr": "lokr",
    "lycoris/ia3": "ia3",
    "lycoris/diag-oft": "oft",
    "lycoris/boft": "boft",
    "lycoris/glora": "glora",
    "lycoris/native fine-tuning": "full",
}
"""The GUI's `LoRA_type` and our `--algo`."""

_SEEN = "is detected from the base model"
GUI_NOTED = {"sdxl": _SEEN, "model_list": "is the GUI's own list"}
GUI_SAME = {"LyCORIS_preset": "full", "unit": "1"}
"""Options of the GUI alone: those that have no effect here with any value; and those with the value that has none."""


@dataclass(frozen=True)
class Program:
    """Another program whose presets are read: how one is recognised, and the module with its `import_preset`."""

    name: str
    recognise: Callable[[Mapping[str, Any]], bool]
    place: str

    def imported(self, data: Mapping[str, Any]) -> Imported:
        """Its preset as our options."""
        module = importlib.import_module(self.place)
        found: Imported = module.import_preset(data)
        return found


def _of_onetrainer(data: Mapping[str, Any]) -> bool:
    return isinstance(data.get("training_method"), str) and bool(
        {"model_type", "base_model_name", "__version"} & {*data}
    )


def _of_ai_toolkit(data: Mapping[str, Any]) -> bool:
    config = data.get("config")
    return "job" in data and isinstance(config, Mapping) and isinstance(config.get("process"), list)


PROGRAMS = (
    Program("OneTrainer", _of_onetrainer, "lora_train.presets.onetrainer"),
    Program("ai-toolkit", _of_ai_toolkit, "lora_train.presets.ai_toolkit"),
)
"""Programs with nested options; imported when one of their presets is read."""

_GUI_RATES = {"text_encoder_lr": "network_train_unet_only", "unet_lr": "network_train_text_encoder_only"}

LOKR_FULL = 10240 / 2
_RATES = tuple(
    f"train.{name}" for name in ("learning_rate", "unet_lr", "text_encoder_lr", "text_encoder_lr1", "text_encoder_lr2")
)


def is_foreign(data: Mapping[str, Any]) -> bool:
    """Whether these are options of another program: none of our sections, but sd-scripts' names."""
    if isinstance(data.get("datasets"), list) or _program(data):
        return True  # see `import_options`
    if {*data} & {"version", *RunConfig.__dataclass_fields__, *COMMANDS}:
        return False
    flat = _flat(data)
    return bool({*flat} & {*kohya_names(), *GUI_NAMES, *kohya.NOTED, *kohya.ABSENT, "LoRA_type", "network_module"})


def import_options(data: Mapping[str, Any]) -> Imported:
    """The settings in `data` as our options. Raises LoraTrainError if they do not describe a training."""
    if isinstance(data.get("datasets"), list):
        what = "this describes pictures (a dataset config), not a training."
        raise LoraTrainError(what, "datasets", "Give it as data.dataset_config.")
    if program := _program(data):
        return program.imported(data)
    found, flat = Imported(), _flat(data)
    if {*flat} & {*GUI_NAMES, "LoRA_type"}:
        flat = _of_gui(flat, found)
    algorithm = _algorithm(flat, found)
    rates = _optimizer(flat, found)
    for name, value in flat.items():
        option = _option(name)
        if option is None:
            _other(found, name, value)
        elif rates and option.path in _RATES:
            found.left[name] = f"= {as_text(value)}: {rates}"
        else:
            take(found, name, option, value, _steps(flat))
    found.values |= {f"network.{name}": value for name, value in algorithms()[algorithm].items()}
    if algorithm == "locon":
        found.values.setdefault("network.conv_dim", found.values.get("network.network_dim", DEFAULT_DIM))
    _full_lokr(found, algorithm)
    _only_of_the_kind(found, algorithms()[algorithm].get("kind", NetworkOptions().kind))
    return found


def _program(data: Mapping[str, Any]) -> Program | None:
    return next((program for program in PROGRAMS if program.recognise(data)), None)


def _flat(data: Mapping[str, Any]) -> dict[str, Any]:
    """sd-scripts ignores the names of sections."""
    flat: dict[str, Any] = {}
    for name, value in data.items():
        flat |= {str(one): inner for one, inner in value.items()} if isinstance(value, dict) else {str(name): value}
    return flat


def _of_gui(given: dict[str, Any], found: Imported) -> dict[str, Any]:
    """A preset of the GUI as sd-scripts' options."""
    flat: dict[str, Any] = {}
    for name, value in given.items():
        if name in GUI_NOTED or (name in GUI_SAME and as_text(value).casefold() in (GUI_SAME[name], "")):
            if name in GUI_NOTED and not is_off(as_text(value)):
                found.differs[name] = GUI_NOTED[name]
        elif name not in ("additional_parameters", "lr_warmup"):
            known = GUI_NAMES.get(name, name)
            if known not in flat or is_off(as_text(flat[known])):  # "epoch" or "max_train_epochs"
                flat[known] = value
    if as_text(flat.get("LoRA_type", "")).casefold() == "standard":
        for name in ("conv_dim", "conv_alpha"):
            if not is_off(value := as_text(flat.pop(name, ""))) and value != "1":
                found.left[name] = f"= {value}: in the GUI it applies only to LoCon and the kinds of LyCORIS."
    if not is_off(as_text(given.get("max_train_steps"))) and is_off(as_text(given.get("max_train_epochs"))):
        epochs = as_text(flat.pop("max_train_epochs", ""))  # the GUI's "epoch", which only stands in for steps
        if not is_off(epochs):
            found.left["max_train_epochs"] = f"= {epochs}: the number of steps is given."
    flat |= _of_line(as_text(given.get("additional_parameters", "")))
    if not is_off(as_text(flat.pop("use_wandb", ""))):
        flat.setdefault("log_with", "wandb")
    stop = flat.pop("stop_text_encoder_training", 0)
    for name, percent in (("lr_warmup_steps", given.get("lr_warmup")), ("stop_text_encoder_training", stop)):
        if not is_off(as_text(percent)):
            flat[name] = Share(percent)
    none = [rate for rate in _GUI_RATES if rate in flat and number(as_text(flat[rate])) == 0]
    for rate in none:
        del flat[rate]
    if len(none) == 1:  # the GUI's way to write it; with both at 0 the general rate applies
        flat[_GUI_RATES[none[0]]] = True
    return flat


def _of_line(line: str) -> dict[str, Any]:
    """Flags of a command line: `--a=1 --b 2 --c`."""
    flags: dict[str, Any] = {}
    name = ""
    for word in _words(line):
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            flags[name] = value if equals else True
        elif name:
            flags[name] = word if flags[name] is True else f"{flags[name]} {word}"
    return flags


def _words(line: str) -> list[str]:
    try:
        return shlex.split(line)
    except ValueError:  # a quotation mark that is not closed
        return line.split()


def _algorithm(flat: dict[str, Any], found: Imported) -> str:
    """Our name of the kind of network; its arguments are added to the options."""
    module, kind = as_text(flat.pop("network_module", "")), as_text(flat.pop("LoRA_type", ""))
    given = flat.pop("network_args", None) or []
    for text in _words(given) if isinstance(given, str) else map(as_text, given):
        name, _, value = text.partition("=")
        if name.strip() == "algo":
            kind = value.strip()
        else:
            flat.setdefault(name.strip(), value)
    kind = kind or module or "networks.lora"
    algorithm = GUI_KINDS.get(kind.casefold()) or kohya.network_modules().get(kind) or kind_named(kind)
    if algorithm not in algorithms():
        found.left["network"] = f"= {kind}: this kind is not supported yet; lora is trained instead."
        return "lora"
    return algorithm


def _optimizer(flat: dict[str, Any], found: Imported) -> str:
    """Take the optimizer; if it is not available, return why its rates are not taken either."""
    option = find("train.optimizer")
    name = as_text(flat.pop("optimizer_type", ""))
    if flat.get("use_8bit_adam") is True:
        name = "AdamW8bit"
        del flat["use_8bit_adam"]
    if not name:
        return ""
    named = option.about.kohya_values.get(name, name).casefold()
    if named in option.about.choices:
        found.values[option.path] = named
        found.taken["optimizer_type"] = option.path
        return ""
    found.left["optimizer_type"] = f"= {name}: it is not available yet; {option.default} is used instead."
    arguments = as_text(flat.pop("optimizer_args", ""))
    if arguments:
        found.left["optimizer_args"] = f"= {arguments}: they are for {name}."
    return f"this rate is for {name}; a usual one is chosen."


def _steps(flat: Mapping[str, Any]) -> int:
    steps = number(as_text(flat.get("max_train_steps", "")))
    return int(steps) if steps > 0 else 0


def _other(found: Imported, name: str, value: Any) -> None:
    """Report a name that is not an option here; an empty value is ignored."""
    text = as_text(value)
    if name in kohya.NOTED:
        if not is_off(text):
            found.differs[name] = kohya.NOTED[name]
        return
    items = value if isinstance(value, list) else [text]
    same = name in kohya.SAME and all(kohya.is_same(name, as_text(one)) for one in items)
    if not is_off(text) and not same:
        known = name in kohya.ABSENT
        why = f"it is not available yet. {kohya.ABSENT[name]}".strip() if known else "it is not known here."
        found.left[name] = f"= {text}: {why}"


def _full_lokr(found: Imported, algorithm: str) -> None:
    """LyCORIS decomposes nothing if LoKr's dimension is this large; people write 100000."""
    given = number(found.left.get("network_dim", "").removeprefix("= ").partition(":")[0])
    if algorithm == "lokr" and given > LOKR_FULL:
        del found.left["network_dim"]
        found.left.pop("conv_dim", None)
        found.values["network.full_matrix"] = True
        found.differs["network_dim"] = f"= {given:g} is network.full_matrix here: it means that nothing is decomposed"


def _only_of_the_kind(found: Imported, kind: str) -> None:
    """Presets contain the options of all kinds; those of kinds other than the chosen one would be refused."""
    for name, path in [*found.taken.items()]:
        option = find(path)
        if option.section == "network" and option.about.kinds and kind not in option.about.kinds:
            value = found.values.pop(path)
            del found.taken[name]
            if value != option.default:
                found.left[name] = f"= {as_text(value)}: it applies only to {', '.join(option.about.kinds)}."


def _option(name: str) -> Option | None:
    """The option with this name in sd-scripts or LyCORIS."""
    other = find(f"network.{OTHER_NAMES[name]}") if name in OTHER_NAMES and name != "algo" else None
    return kohya_names().get(name) or other

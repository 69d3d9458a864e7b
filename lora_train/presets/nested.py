"""Presets of programs with nested options: each of their names is taken, or reported with the reason why not."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lora_train.config import kohya
from lora_train.config.imported import Imported, as_text, is_off, kohya_names, take
from lora_train.config.table import Option, find, known
from lora_train.config.usual import DEFAULT_DIM

DEFAULT = " (its default)"
"""Behind a name that the preset does not contain, where the program's own default matters."""


class Nested:
    """A preset: its names with dots ("unet.learning_rate"), lists as they are. `found` is what has been taken."""

    def __init__(self, data: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
        self.values = _flat(data)
        self.found = Imported()
        self._defaults = defaults
        """What the program uses for names that the preset does not contain."""
        self._used: set[str] = set()

    def given(self, name: str) -> bool:
        """Whether the preset contains this name."""
        return name in self.values

    def get(self, name: str) -> Any:
        """The value, or the program's default; from then on the name counts as used."""
        self._used.add(name)
        return self.values.get(name, self._defaults.get(name))

    def take(self, name: str, to: str, value: Any = None) -> None:
        """Take the value of `name` (or `value`, its meaning) as the option `to`: our path, or sd-scripts' name."""
        raw = self.get(name)
        value = raw if value is None else value
        if value is None:
            return
        shown = name if self.given(name) else name + DEFAULT
        option = _option(to)
        if option is None:
            if not is_off(as_text(value)) and not (to in kohya.SAME and kohya.is_same(to, as_text(value))):
                hint = kohya.ABSENT.get(to, "")
                self.found.left[shown] = f"= {as_text(raw)}: it is not available yet. {hint}".strip()
            return
        take(self.found, shown, option, value)

    def put(self, name: str, path: str, value: Any) -> None:
        """Set an option to a value of ours that follows from `name`."""
        self.get(name)
        self.found.values[path] = value
        self.found.taken[name if self.given(name) else name + DEFAULT] = path

    def differs(self, name: str, why: str) -> None:
        """Report that something is different here."""
        if self.given(name) and not is_off(as_text(self.get(name))):
            self.found.differs[name] = why

    def leave(self, name: str, why: str) -> None:
        """Report that the value of `name` is not honoured; one that is off is not mentioned."""
        value = self.get(name)
        if self.given(name) and not is_off(as_text(value)):
            self.found.left[name] = f"= {as_text(value)}: {why}"

    def sizes(self, name: str, sides: Sequence[str]) -> None:
        """Take one resolution, or several at which every picture is trained."""
        first, *others = dict.fromkeys(sides)
        if others and not all(side.isdecimal() for side in (first, *others)):
            self.leave(name, "these are no resolutions.")
            return
        self.take(name, "resolution", first)
        if others:
            self.found.values["data.more_resolutions"] = tuple(map(int, others))
            self.found.taken[f"{name}: further ones"] = "data.more_resolutions"

    def choose(self, name: str, to: str, words: Mapping[str, str]) -> None:
        """Take a choice by the program's `words` for ours."""
        value = as_text(self.get(name))
        if value.casefold() in words:
            self.take(name, to, words[value.casefold()])
        else:
            self.leave(name, "it is not available yet.")

    def optimizer(self, name: str, word: str, arguments: Sequence[str], rates: Sequence[str]) -> None:
        """Take the optimizer called `word`; where there is none like it, its arguments and rates are not taken
        either: some are 1, with which another would ruin everything."""
        option = find("train.optimizer")
        ours = option.about.kohya_values.get(word, word).casefold()
        if ours in option.about.choices:
            self.put(name, option.path, ours)
            if arguments:
                self.found.values["train.optimizer_args"] = tuple(arguments)
                self.found.taken[f"{name}: arguments"] = "train.optimizer_args"
            return
        self.leave(name, f"it is not available yet; {option.default} is used instead.")
        for shown, path in [*self.found.taken.items()]:
            if path in rates:
                self.found.left[shown] = f"= {as_text(self.found.values.pop(path))}: this rate is for {word}."
                del self.found.taken[shown]

    def rest(self, noted: Mapping[str, str], ignored: Callable[[str], str]) -> Imported:
        """Report what nothing has asked for, and return everything. `noted` has names that make no difference, with
        a sentence; `ignored(name)` says why a whole part is left out, "" where it is not."""
        parts: dict[str, str] = {}
        for name, value in self.values.items():
            if name in self._used or value == self._defaults.get(name):
                continue
            if name in noted:
                self.differs(name, noted[name])
            elif why := ignored(name):
                parts[name.partition(".")[0]] = why
            else:
                self.leave(name, "it is not known here.")
        self.found.differs |= parts
        return self.found

    def locon(self, dim: Any, alpha: Any) -> None:
        """Also train the convolutions, with these."""
        self.found.values |= {"network.conv_dim": int(dim or DEFAULT_DIM), "network.conv_alpha": float(alpha or 1)}


def prompt_line(sample: Mapping[str, Any], names: Mapping[str, str]) -> str:
    """A preview's prompt with sd-scripts' flags; `names` has the program's name of each flag's value."""
    line = " ".join(str(sample.get("prompt", "")).split())
    for flag, name in names.items():
        value = sample.get(name)
        if not isinstance(value, bool) and value not in (None, ""):
            line += f" --{flag} {value}"
    return line


def _option(to: str) -> Option | None:
    if "." in to:
        return find(to) if known(to) else None
    return kohya_names().get(to)


def _flat(data: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in data.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{before}{name}.")
        else:
            flat[f"{before}{name}"] = value
    return flat

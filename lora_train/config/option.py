"""The description of an option, written once, beside its default. `table` has all options."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lora_train.records.families import families_with

KEY = "option"
"""The key of a field's metadata that holds its `About`."""

FIRST, COMMON, EXPERT = "first", "common", "expert"
LEVELS = (FIRST, COMMON, EXPERT)
"""Who uses an option: everybody, many people, or experts."""

BASICS = "basics"
SOURCES = "prepared datasets and masks"
STEPS = "steps and learning rates"
NETWORK = "network"
NETWORK_MORE = "network, advanced"
DATA = "data and precision"
LOSS = "loss, noise and timesteps"
SAVING = "saving and previews"
OPERATIONS = "operations on the pictures"
CAPTIONS = "captions and tags (the operation interrogate)"
GROUPS = (BASICS, SOURCES, STEPS, NETWORK, NETWORK_MORE, DATA, LOSS, SAVING, OPERATIONS, CAPTIONS)
"""The headings under which a run's options are listed, in their order."""
DRAWING = "generating pictures"
EDITING = "changing captions"
"""The headings of the other commands' options."""

REPEATED, COMMAS, SHELL, WORDS = "repeated", "commas", "shell", "words"
"""How a list is written on the command line: the flag repeated, one text with commas, one command with quotes, or any
number of texts after the flag."""


@dataclass(frozen=True)
class About:
    """The description of one option."""

    label: str
    """Its name on a page."""
    help: str
    """One line: what it does. Without the default, which is shown beside it."""
    group: str
    level: str = EXPERT
    range: tuple[float, float] | None = None
    """Minimum and maximum, both allowed. None is always allowed if the field may be None."""
    choices: Collection[str] = ()
    """The allowed values; for a list, those of each item. For a table, its current names."""
    choice_labels: Mapping[str, str] = field(default_factory=dict)
    """What the choices are called on a page, if not by their names."""
    example: str = ""
    """A value as an example, shown in an empty field."""
    unset: str = ""
    """What happens if it is not set, unless the default says so itself."""
    flags: tuple[str, ...] | None = None
    """On the command line; None: the field's name with dashes; empty: set by the flag `through`. Without dashes: an
    argument by its position."""
    through: str = ""
    """The flag that sets an option without a flag of its own."""
    metavar: str = ""
    written: str = ""
    """For a list: REPEATED, COMMAS, SHELL or WORDS."""
    kohya: tuple[str, ...] = ()
    """Its names in sd-scripts, the usual one first; also those of `--network_args`."""
    kohya_values: Mapping[str, str] = field(default_factory=dict)
    """sd-scripts' names of values, and ours."""
    kinds: Sequence[str] = ()
    """The kinds of network that it applies to; empty: all. See `Kind.options`."""
    needs: str = ""
    """The feature of a family of base models that it needs (see `records.family.FEATURES`); "": none."""
    operations: tuple[str, ...] = ()
    """The operations on pictures that it applies to; empty: it always applies."""
    by_rule: bool = False
    """Whether a rule (`network.network_rules`) may set it for some modules."""
    metadata: str = ""
    """The key of the file's metadata that holds this value alone; other keys are made from several options."""

    @property
    def families(self) -> Sequence[str]:
        """The families of base models that it applies to; empty: all."""
        return families_with(self.needs) if self.needs else ()


def option(default: Any, label: str, help: str, group: str, level: str = EXPERT, **more: Any) -> Any:
    """A dataclass field with its default and its description; `more` are the other fields of `About`."""
    return field(default=default, metadata={KEY: About(label, help, group, level, **more)})

"""What is said of an option, once, beside its default: see `option`, and `table` for all of them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lora_train.records.families import families_with

KEY = "option"
"""Under this name a field's metadata holds its `About`."""

FIRST, COMMON, EXPERT = "first", "common", "expert"
LEVELS = (FIRST, COMMON, EXPERT)
"""Who looks for an option: everybody, many people, those who know what it does."""

BASICS = "what a person gives"
SOURCES = "what others prepared, and masks"
STEPS = "steps and rates"
NETWORK = "network"
NETWORK_MORE = "more of the network"
DATA = "data and numbers"
LOSS = "loss, noise and timesteps"
SAVING = "saving and previews"
OPERATIONS = "operations on the pictures"
CAPTIONS = "captions and tags (the operation interrogate)"
GROUPS = (BASICS, SOURCES, STEPS, NETWORK, NETWORK_MORE, DATA, LOSS, SAVING, OPERATIONS, CAPTIONS)
"""The headings under which options stand, in their order."""

REPEATED, COMMAS, SHELL, WORDS = "repeated", "commas", "shell", "words"
"""How a list is written at the command line: its flag several times, one text with commas, one command with quotes, any
number of texts after the flag."""


@dataclass(frozen=True)
class About:
    """The description of one option."""

    label: str
    """What a page calls it."""
    help: str
    """One line: what it does. Without its default, which stands beside it."""
    group: str
    level: str = EXPERT
    range: tuple[float, float] | None = None
    """Least and highest value, both allowed. None is always allowed where the field may be None."""
    choices: Collection[str] = ()
    """What it may be; of a list, what each item may be. Of tables the names that they have now."""
    unset: str = ""
    """What happens where nothing is given, if the default does not say it itself."""
    flags: tuple[str, ...] | None = None
    """At the command line; None: the field's name with dashes; none at all: `through` says how else."""
    through: str = ""
    """The flag that sets it, for one without a flag of its own."""
    metavar: str = ""
    written: str = ""
    """REPEATED, COMMAS, SHELL or WORDS, of a list."""
    kohya: tuple[str, ...] = ()
    """sd-scripts' names, the first one first; also those of its `--network_args`."""
    kohya_values: Mapping[str, str] = field(default_factory=dict)
    """What a value is called there."""
    kinds: Sequence[str] = ()
    """The kinds of network that it means something for; none: all. See `Kind.options`."""
    needs: str = ""
    """What a family of base models must have, that it means something (see `records.family.FEATURES`); "": nothing."""
    operations: tuple[str, ...] = ()
    """The operations on pictures one of which must be on; none: it always counts."""
    metadata: str = ""
    """The key in the file's metadata that has just this value; others are made from several options."""

    @property
    def families(self) -> Sequence[str]:
        """The families of base models that it means something for; none: all."""
        return families_with(self.needs) if self.needs else ()


def option(default: Any, label: str, help: str, group: str, level: str = EXPERT, **more: Any) -> Any:
    """A dataclass field with its default and all that is said of it; `more` are the other fields of `About`."""
    return field(default=default, metadata={KEY: About(label, help, group, level, **more)})

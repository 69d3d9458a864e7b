"""The choice of an adapter in files in which peft stored several."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lora_train.errors import LoraTrainError
from lora_train.lorafile.reading import adapters_of


def choose_adapters(paths: Sequence[Path], names: Sequence[str], where: str = "--adapter") -> list[str]:
    """The adapter to read from each file: `names` has one for each, or one for those that have it; "": the first.

    Raises LoraTrainError if the numbers differ, or no file has the adapter.
    """
    if len(names) > 1:
        if len(names) != len(paths):
            what = f"{len(names)} adapters for {len(paths)} files."
            raise LoraTrainError(what, where, "Give one for each file, or a single one for those that have it.")
        return list(names)
    if not names or not names[0]:
        return [""] * len(paths)
    there = [adapters_of(path) for path in paths]
    if not any(names[0] in its for its in there):
        every = sorted(set().union(*there))
        raise LoraTrainError(
            f"no file here has an adapter called {names[0]!r} (there: {', '.join(every) or 'none named'}).",
            where,
            "Leave it out, or give one of these.",
        )
    return [names[0] if names[0] in its else "" for its in there]

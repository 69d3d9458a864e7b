"""Arguments of an optimizer in sd-scripts' spelling: `weight_decay=0.1`, `betas=0.9,0.99`."""

from __future__ import annotations

import ast
from collections.abc import Iterable
from typing import Any


def optimizer_arguments(given: Iterable[str]) -> dict[str, Any]:
    """`NAME=VALUE` texts as a constructor's arguments; values are Python's plain literals. Raises ValueError.

    Empty ones, which GUIs write for what was not filled in, are left out.
    """
    found: dict[str, Any] = {}
    for text in filter(str.strip, given):
        name, equals, value = text.partition("=")
        if not equals or not name.strip().isidentifier():
            raise ValueError(f"{text!r} is not NAME=VALUE")
        try:
            found[name.strip()] = ast.literal_eval(value.strip())
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            raise ValueError(f"{text!r}: the value is no number, True, False, None, or list of these") from None
    return found


def all_arguments(config: Any) -> dict[str, Any]:
    """What a run's optimizer gets besides parameters and rates: its weight decay, and the arguments, which win."""
    return {"weight_decay": config.train.weight_decay, **optimizer_arguments(config.train.optimizer_args)}

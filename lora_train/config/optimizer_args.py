"""Arguments of an optimizer in sd-scripts' spelling: `weight_decay=0.1`, `betas=0.9,0.99`."""

from __future__ import annotations

import ast
from collections.abc import Iterable
from typing import Any


def optimizer_arguments(given: Iterable[str]) -> dict[str, Any]:
    """`NAME=VALUE` texts as a constructor's arguments; values are Python literals. Raises ValueError.

    Empty texts, which GUIs write for empty fields, are ignored.
    """
    found: dict[str, Any] = {}
    for text in filter(str.strip, given):
        name, equals, value = text.partition("=")
        if not equals or not name.strip().isidentifier():
            raise ValueError(f"{text!r} is not NAME=VALUE")
        try:
            found[name.strip()] = ast.literal_eval(value.strip())
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            raise ValueError(f"{text!r}: the value is not a number, True, False, None, or a list of these") from None
    return found


def all_arguments(config: Any) -> dict[str, Any]:
    """A run's optimizer arguments besides parameters and rates: the weight decay, overridden by `optimizer_args`."""
    return {"weight_decay": config.train.weight_decay, **optimizer_arguments(config.train.optimizer_args)}

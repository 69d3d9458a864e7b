"""JSON that every reader accepts, and JSON from strangers."""

from __future__ import annotations

import json
import math
from typing import Any

MAX_DEPTH = 64
"""How deep lists and objects may be nested in what a stranger sends."""


def to_json(value: Any, indent: int | None = None) -> str:
    """`value` as JSON text: NaN and infinity, which JSON does not have, become null.

    Lone surrogates, as in the names of files that are not UTF-8, are escaped, so that the text can be encoded.
    """
    text = json.dumps(finite(value), indent=indent, ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def finite(value: Any) -> Any:
    """`value` with None for each number that is not finite, also inside lists and dictionaries."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {name: finite(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(one) for one in value]
    return value


def read_json(data: bytes | str) -> Any:
    """The value of JSON from a stranger.

    Raises ValueError when it is not JSON, nested deeper than MAX_DEPTH, or holds a key twice: one value would be lost.
    """
    try:
        value = json.loads(data, object_pairs_hook=_once)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [inner for one in level if isinstance(one, (dict, list)) for inner in _inside(one)]
        if not level:
            return value
    raise ValueError("it is nested too deeply")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    twice = next((name for name in names if names.count(name) > 1), None) if len({*names}) < len(names) else None
    if twice is not None:
        raise ValueError(f"{twice[:100]!r} is there twice")
    return dict(pairs)


def _inside(value: dict[str, Any] | list[Any]) -> list[Any]:
    return list(value.values()) if isinstance(value, dict) else value

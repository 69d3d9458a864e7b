"""Values of options: whether plain data has a field's type, and texts parsed as that type."""

from __future__ import annotations

import re
import shlex
import types
import typing
from typing import Any

from lora_train.config.option import COMMAS, SHELL, WORDS


def plain_type(hint: Any) -> Any:
    """The type of a field without None: `int` for `int | None`."""
    if isinstance(hint, types.UnionType):
        return next(part for part in typing.get_args(hint) if part is not type(None))
    return hint


def may_be_none(hint: Any) -> bool:
    """Whether a field of this type may be None."""
    return isinstance(hint, types.UnionType) and type(None) in typing.get_args(hint)


def item_type(hint: Any) -> Any:
    """The type of a list's items; None for other types."""
    return typing.get_args(hint)[0] if typing.get_origin(hint) is tuple else None


def fit(hint: Any, value: Any) -> tuple[bool, Any]:
    """Whether `value` has the type `hint`, and the value in that type."""
    if isinstance(hint, types.UnionType):
        return (may_be_none(hint), None) if value is None else fit(plain_type(hint), value)
    if item := item_type(hint):
        if not isinstance(value, (list, tuple)):
            return False, value
        items = [fit(item, one) for one in value]
        ok = all(fits for fits, _ in items)
        return ok, tuple(one for _, one in items) if ok else value
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return True, float(value)
    return isinstance(value, hint) and (hint is bool or not isinstance(value, bool)), value


def parse(hint: Any, text: str) -> Any:
    """A text as the type `hint`; in lists, numbers are separated by commas and texts by semicolons.

    Raises ValueError that says what is wrong.
    """
    if may_be_none(hint) and text.lower() in ("", "none"):
        return None
    hint = plain_type(hint)
    if item := item_type(hint):
        separator = ";" if item is str else ","  # rules and paths may contain commas
        return tuple(parse(item, one.strip()) for one in text.split(separator) if one.strip())
    if hint is bool:
        if text.lower() not in ("true", "false", "1", "0"):
            raise ValueError(f"{text!r} is neither true nor false")
        return text.lower() in ("true", "1")
    try:
        return hint(text)
    except ValueError:
        raise ValueError(f"{text!r} is not {describe(hint)}") from None


def parse_written(hint: Any, written: str, text: str) -> Any:
    """Like `parse`, for an option whose list is `written` with commas, as one command, or as words.

    Raises ValueError that says what is wrong.
    """
    if written in (SHELL, WORDS):
        try:
            return tuple(shlex.split(text))
        except ValueError as error:
            raise ValueError(f"{text!r} cannot be read ({error}): check its quotes") from None
    if written == COMMAS:
        return tuple(item.strip() for item in text.split(",") if item.strip())
    return parse(hint, text)


def sides_of(text: str) -> tuple[int, int | None] | None:
    """The width of a resolution as people write it, and the height where it differs; None where it is none.

    >>> sides_of("512"), sides_of("512,512"), sides_of("512x768")
    ((512, None), (512, None), (512, 768))
    """
    found = re.fullmatch(r"(\d{1,9})(?:[x,×](\d{1,9}))?", text.replace(" ", "").casefold())
    if found is None:
        return None
    width, height = int(found[1]), int(found[2] or found[1])
    return width, None if width == height else height


def describe(hint: Any) -> str:
    """A type in words: "a whole number"."""
    hint = plain_type(hint)
    if item := item_type(hint):
        return {int: "a list of whole numbers", float: "a list of numbers"}.get(item, "a list of texts")
    return {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}[hint]

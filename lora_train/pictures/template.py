"""Activation tag, caption and tags joined to one line."""

from __future__ import annotations

from collections.abc import Iterable
from string import Formatter

from lora_train.errors import LoraTrainError
from lora_train.pictures.tags import split_parts, unique

TEMPLATE = "{tag}, {caption}, {tags}"
LONGEST = 1000
"""Most characters of a template."""
PLACEHOLDERS = ("tag", "caption", "tags")


def merge(tag: str, caption: str, tags: Iterable[str] = (), template: str = TEMPLATE) -> str:
    """Fill `template`; no part occurs twice, and an empty part leaves no comma behind.

    A part of the template (between commas) is left out when all placeholders in it are empty.
    Raises LoraTrainError for a template that is malformed or has other placeholders.

    >>> merge("sara", "woman in a park", ["1girl", "Sara"])
    'sara, woman in a park, 1girl'
    >>> merge("", "park", [], "photo of {tag}, {caption}, best")
    'park, best'
    """
    check_template(template)
    values = {"tag": _joined([tag]), "caption": _joined([caption]), "tags": _joined(tags)}
    filled = (_fill(part, values) for part in template.split(","))
    return ", ".join(unique(split_parts(",".join(filled))))


def check_template(template: str) -> None:
    """Raise LoraTrainError unless `template` has no other placeholders than ours, plainly written."""
    if len(template) > LONGEST:
        raise _wrong(f"the caption template is longer than {LONGEST} characters.")
    try:
        fields = [piece[1:] for piece in Formatter().parse(template) if piece[1] is not None]
    except ValueError as error:
        raise _wrong(f"the caption template is malformed ({error}).") from error
    unknown = [_shown(name, spec, how) for name, spec, how in fields if name not in PLACEHOLDERS or spec or how]
    if unknown:
        raise _wrong(f"the caption template has unknown placeholders: {', '.join(dict.fromkeys(unknown))}.")


def _fill(part: str, values: dict[str, str]) -> str:
    pieces = list(Formatter().parse(part))
    said = [values[name] for _, name, _, _ in pieces if name]
    if said and not any(said):
        return ""
    return "".join(literal + (values[name] if name else "") for literal, name, _, _ in pieces)


def _joined(texts: Iterable[str]) -> str:
    return ", ".join(split_parts(",".join(texts)))


def _shown(name: str | None, spec: str | None, how: str | None) -> str:
    return "{" + (name or "") + (f"!{how}" if how else "") + (f":{spec}" if spec else "") + "}"


def _wrong(what: str) -> LoraTrainError:
    known = ", ".join(f"{{{name}}}" for name in PLACEHOLDERS)
    return LoraTrainError(what, "caption template", f"Use {known}; a literal brace is written twice.")

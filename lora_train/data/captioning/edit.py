"""Bulk edits of captions, as plain functions on a caption's parts."""

from __future__ import annotations

import inspect
import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

from lora_train.data.captioning.clean import same_form, split_parts, unique, without
from lora_train.errors import LoraTrainError

Order = Literal["first", "alphabetical", "frequency"]


@dataclass(frozen=True)
class Edit:
    """One change: `apply` takes a caption's parts and how often each part occurs in the whole folder.

    The frequencies are keyed by `same_form`. `name` is what the history shows.
    """

    name: str
    apply: Callable[[list[str], Counter[str]], list[str]]


def add(tags: Iterable[str], where: Literal["front", "back"] = "front") -> Edit:
    """Put `tags` in front or at the back; those that a caption has already move there.

    Raises LoraTrainError for another place, or no tags.
    """
    wanted = _listed(tags)
    if where not in ("front", "back"):
        raise LoraTrainError(f"there is no place {where!r}.", "add", "Choose front or back.")
    forms = set(map(same_form, wanted))

    def apply(parts: list[str], counts: Counter[str]) -> list[str]:
        others = [part for part in parts if same_form(part) not in forms]
        return wanted + others if where == "front" else others + wanted

    return Edit(f"add {'in front' if where == 'front' else 'at the back'}: {', '.join(wanted)}", apply)


def remove(tags: Iterable[str]) -> Edit:
    """Take out exactly these tags, whatever their case."""
    unwanted = _listed(tags)
    forms = set(map(same_form, unwanted))
    return Edit(
        f"remove: {', '.join(unwanted)}",
        lambda parts, _: [part for part in parts if same_form(part) not in forms],
    )


def replace(pattern: str, by: str) -> Edit:
    """Replace what the regular expression finds in each part; a part of which nothing is left goes.

    `by` may refer to groups (`\\1`) and hold commas. Raises LoraTrainError for a faulty pattern.
    """
    try:
        compiled = re.compile(pattern)
        _check_groups(compiled, by)
    except (re.error, IndexError, RecursionError, OverflowError) as error:
        raise LoraTrainError(
            f"the regular expression is faulty ({error}).",
            f"replace {pattern!r} by {by!r}",
            "Put a backslash before characters that are meant literally: \\( \\) \\. \\* \\+ \\?",
        ) from error
    return Edit(
        f"replace {pattern} by {by}",
        lambda parts, _: split_parts(",".join(compiled.sub(by, part) for part in parts)),
    )


def reorder(order: Order, first: Iterable[str] = ()) -> Edit:
    """Sort parts: those of `first` lead in their order; then the rest as it was, or sorted.

    "frequency" puts what occurs most often in the folder first. Raises LoraTrainError for another order.
    """
    leading = {same_form(tag): rank for rank, tag in enumerate(_listed(first, needed=False))}
    keys: dict[str, Callable[[str, Counter[str]], tuple[int, str]]] = {
        "first": lambda form, _: (0, ""),
        "alphabetical": lambda form, _: (0, form),
        "frequency": lambda form, counts: (-counts[form], ""),
    }
    if order not in keys:
        raise LoraTrainError(f"there is no order {order!r}.", "reorder", f"Choose one of {', '.join(keys)}.")
    key = keys[order]

    def apply(parts: list[str], counts: Counter[str]) -> list[str]:
        forms = {part: same_form(part) for part in parts}
        return sorted(parts, key=lambda part: (leading.get(forms[part], len(leading)), key(forms[part], counts)))

    return Edit(f"reorder: {order}", apply)


def deduplicate() -> Edit:
    """Keep the first of parts that are the same but for case and underscores."""
    return Edit("deduplicate", lambda parts, _: unique(parts))


def blacklist(tags: Iterable[str]) -> Edit:
    """Take out these tags; `*` stands for any characters."""
    unwanted = _listed(tags)
    return Edit(f"blacklist: {', '.join(unwanted)}", lambda parts, _: without(parts, unwanted))


OPERATIONS: dict[str, Callable[..., Edit]] = {
    "add": add,
    "remove": remove,
    "replace": replace,
    "reorder": reorder,
    "deduplicate": deduplicate,
    "blacklist": blacklist,
}


def edit_of(content: dict[str, Any]) -> Edit:
    """The edit that plain data names: `{"operation": "add", "tags": "a, b", "where": "back"}`.

    Raises LoraTrainError for an unknown operation and for arguments that it has not.
    """
    given = dict(content)
    make = OPERATIONS.get(str(given.pop("operation", "")))
    if make is None:
        known = ", ".join(OPERATIONS)
        raise LoraTrainError(f"there is no edit {content.get('operation')!r}.", "operation", f"Choose one of {known}.")
    texts = all(isinstance(value, str) for value in given.values())
    try:
        inspect.signature(make).bind(**given)
    except TypeError as error:
        raise LoraTrainError(f"the edit is not complete, or says too much ({error}).", "edit") from error
    if not texts:
        raise LoraTrainError("all of an edit must be text.", "edit", "Separate tags by commas.")
    return make(**given)


def edited(text: str, edits: Iterable[Edit], counts: Counter[str]) -> str:
    """The caption after all `edits`; the same text, to the letter, when they change none of its parts."""
    before = split_parts(text)
    parts = before
    for edit in edits:
        parts = edit.apply(list(parts), counts)
    if parts == before:
        return text
    after = ", ".join(parts) + "\n"
    try:
        after.encode()
    except UnicodeEncodeError as error:
        raise LoraTrainError("the edit puts in half a character.", repr(after), "Type it again.") from error
    return after


def count_parts(texts: Iterable[str]) -> Counter[str]:
    """In how many of the captions each part occurs, by `same_form`."""
    return Counter(form for text in texts for form in {same_form(part) for part in split_parts(text)})


def _listed(tags: Iterable[str], needed: bool = True) -> list[str]:
    listed = unique(split_parts(tags if isinstance(tags, str) else ",".join(tags)))
    if needed and not listed:
        raise LoraTrainError("no tags were given.", "edit", "Name at least one.")
    return listed


def _check_groups(compiled: re.Pattern[str], by: str) -> None:
    """Raise re.error or IndexError when `by` refers to a group that the pattern has not."""
    # every group matched, emptily: only then does expand look at all of `by`
    groups = "".join(f"(?P<{name}>)" if name else "()" for name in _group_names(compiled))
    match = re.match(groups, "")
    assert match
    match.expand(by)


def _group_names(compiled: re.Pattern[str]) -> list[str]:
    names = {number: name for name, number in compiled.groupindex.items()}
    return [names.get(number, "") for number in range(1, compiled.groups + 1)]

"""Bulk edits of captions, as plain functions on the parts of all captions of a folder."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from lora_train.config.table import find
from lora_train.errors import LoraTrainError
from lora_train.patterns import PatternError, check_pattern, substitute
from lora_train.pictures.captions import caption_lines
from lora_train.pictures.tags import same_form, split_parts, unique, without, without_syntax
from lora_train.pictures.texts import lines_of

Order = Literal["first", "alphabetical", "frequency"]
LONGEST = 10_000
"""Most characters of an edit's arguments."""


@dataclass(frozen=True)
class Edit:
    """One change: `apply` takes the parts of every caption, and how many captions of the folder each part occurs in.

    The frequencies are keyed by `same_form`. `name` is what the history shows.
    """

    name: str
    apply: Callable[[list[list[str]], Counter[str]], list[list[str]]]


def _each(name: str, change: Callable[[list[str], Counter[str]], list[str]]) -> Edit:
    """An edit that changes each caption on its own."""
    return Edit(name, lambda captions, counts: [change(parts, counts) for parts in captions])


def add(tags: Iterable[str], where: Literal["front", "back"] = "front") -> Edit:
    """Put `tags` in front or at the back; those that a caption already has move there.

    Raises LoraTrainError for any other place, or no tags.
    """
    wanted = _listed(tags)
    places = find("captions.where").about.choices
    if where not in places:
        raise LoraTrainError(f"there is no place {where!r}.", "add", f"Choose {' or '.join(places)}.")
    forms = set(map(same_form, wanted))

    def apply(parts: list[str], counts: Counter[str]) -> list[str]:
        others = [part for part in parts if same_form(part) not in forms]
        return wanted + others if where == "front" else others + wanted

    return _each(f"add {'in front' if where == 'front' else 'at the back'}: {', '.join(wanted)}", apply)


def remove(tags: Iterable[str]) -> Edit:
    """Take out exactly these tags, whatever their case."""
    unwanted = _listed(tags)
    forms = set(map(same_form, unwanted))
    return _each(
        f"remove: {', '.join(unwanted)}",
        lambda parts, _: [part for part in parts if same_form(part) not in forms],
    )


def replace(pattern: str, by: str) -> Edit:
    """Replace what the regular expression finds in each part; a part that becomes empty is removed.

    `by` may refer to groups (`\\1`) and contain commas. Raises LoraTrainError for a faulty pattern; `apply` raises it
    for one that takes too long.
    """

    def wrong(error: PatternError) -> LoraTrainError:
        return LoraTrainError(f"the pattern {error}.", f"replace {_short(pattern)} by {_short(by)}", error.fix)

    def apply(captions: list[list[str]], counts: Counter[str]) -> list[list[str]]:
        once = list({part: None for parts in captions for part in parts})
        try:
            replaced = dict(zip(once, substitute(pattern, by, once)))
        except PatternError as error:
            raise wrong(error) from error
        return [split_parts(",".join(replaced[part] for part in parts)) for parts in captions]

    try:
        check_pattern(pattern, by)
    except PatternError as error:
        raise wrong(error) from error
    return Edit(f"replace {pattern} by {by}", apply)


def reorder(order: Order, first: Iterable[str] = ()) -> Edit:
    """Sort parts: those of `first` lead in their order; then the rest as it was, or sorted.

    "frequency" puts what occurs most often in the folder first. Raises LoraTrainError for any other order.
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

    return _each(f"reorder: {order}", apply)


def deduplicate() -> Edit:
    """Keep the first of parts that differ only in case and underscores."""
    return _each("deduplicate", lambda parts, _: unique(parts))


def blacklist(tags: Iterable[str]) -> Edit:
    """Take out these tags; `*` stands for any characters."""
    unwanted = _listed(tags)
    return _each(f"blacklist: {', '.join(unwanted)}", lambda parts, _: without(parts, unwanted))


def plain() -> Edit:
    """Remove prompt syntax: weights, brackets, BREAK, AND, networks, escapes; wildcards become their first choice."""
    return _each("remove prompt syntax", lambda parts, _: without_syntax(", ".join(parts)))


OPERATIONS: dict[str, Callable[..., Edit]] = {
    "add": add,
    "remove": remove,
    "replace": replace,
    "reorder": reorder,
    "deduplicate": deduplicate,
    "blacklist": blacklist,
    "plain": plain,
}


def edit_of(content: dict[str, Any]) -> Edit:
    """The edit described by plain data: `{"operation": "add", "tags": "a, b", "where": "back"}`.

    Raises LoraTrainError for an unknown operation, and for arguments that it does not take.
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
        raise LoraTrainError(f"the edit lacks an argument or has one too many ({error}).", "edit") from error
    if not texts:
        raise LoraTrainError("all values of an edit must be text.", "edit", "Separate tags by commas.")
    if any(len(value) > LONGEST for value in given.values()):
        raise LoraTrainError(f"an edit takes at most {LONGEST:,} characters.", "edit", "Split it into several.")
    return make(**given)


def edited(text: str, edits: Iterable[Edit], counts: Counter[str]) -> str:
    """One caption after all `edits`; see `all_edited`."""
    return all_edited([text], edits, counts)[0]


def all_edited(texts: Sequence[str], edits: Iterable[Edit], counts: Counter[str]) -> list[str]:
    """The captions after all `edits`; exactly the same text where they change none of its parts.

    Lines of a text are captions of their own, as in training; comments (`# ...`) stay. Raises LoraTrainError when an
    edit cannot be carried out.
    """
    captions = [caption_lines(text) or [""] for text in texts]
    before = [split_parts(caption) for some in captions for caption in some]
    after = [list(parts) for parts in before]
    for edit in edits:
        after = edit.apply(after, counts)
    out, place = [], 0
    for text, some in zip(texts, captions):
        old, new = before[place : place + len(some)], after[place : place + len(some)]
        place += len(some)
        out.append(text if old == new else _written([line for line in lines_of(text) if line not in some], new))
    return out


def _written(remarks: list[str], captions: list[list[str]]) -> str:
    made = [line for line in (", ".join(parts) for parts in captions) if line]
    after = "\n".join([*remarks, *(made or [""])]) + "\n"
    try:
        after.encode()
    except UnicodeEncodeError as error:
        raise LoraTrainError("the edit inserts half a character.", repr(after), "Type it again.") from error
    return after


def count_parts(texts: Iterable[str]) -> Counter[str]:
    """How many of the captions each part occurs in, by `same_form`."""
    lines = (caption_lines(text) for text in texts)
    return Counter(form for some in lines for form in {same_form(part) for one in some for part in split_parts(one)})


def _listed(tags: Iterable[str], needed: bool = True) -> list[str]:
    listed = unique(split_parts(tags if isinstance(tags, str) else ",".join(tags)))
    if needed and not listed:
        raise LoraTrainError("no tags were given.", "edit", "Name at least one.")
    return listed


def _short(text: str) -> str:
    return repr(text if len(text) <= 100 else text[:97] + "...")

"""The output of captioners and taggers, cleaned for a caption file."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable

KAOMOJI = frozenset(
    "0_0 (o)_(o) +_+ +_- ._. <o>_<o> <|>_<|> =_= >_< 3_3 6_9 >_o @_@ ^_^ o_o u_u x_x |_| ||_||".split()  # noqa: SIM905
)
"""Danbooru tags in which the underscore is part of a face; the list is that of SmilingWolf's taggers."""

_ARTICLE = re.compile(r"(?:a|an|the)(?:\s+|$)", re.IGNORECASE)
_ESCAPED = re.compile(r"\\([\\()\[\]{}:,])")
_NUMBER = re.compile(r"\s*[+-]?(?:\d+(?:\.\d+)?|\.\d+)\s*")
NETWORK = re.compile(r"<(?:lora|lyco|hypernet):[^<>]*>", re.IGNORECASE)
CHOICE = re.compile(r"\{([^{}|]*)\|[^{}]*\}")
WILDCARD = re.compile(r"(?<!\w)__\w[\w/.*-]{0,100}?__(?!\w)")
WORDS = re.compile(r"(?<=[a-z0-9)>] )(?:BREAK|AND)(?!\w)|(?<!\w)(?:BREAK|AND)(?=[ ,]+[a-z(<])")
"""BREAK and AND, except among other words in capitals."""
_DEEPEST = 20
_LONGEST_NUMBER = 20
_LONGEST_TAG = 1000
"""Anything longer is not a tag, and brackets around it belong to it."""
_CLOSING = {"(": ")", "[": "]", "{": "}"}
# escaped characters are kept in Unicode's private use area while emphasis is removed
_ASIDE = {ord(character): 0xF8D0 + number for number, character in enumerate("\\()[]{}:,")}
_BACK = {aside: character for character, aside in _ASIDE.items()}


def split_parts(text: str) -> list[str]:
    """The comma-separated parts of a caption, whitespace collapsed, empty ones left out.

    >>> split_parts(" red  hair,, park ")
    ['red hair', 'park']
    """
    return [part for part in (" ".join(piece.split()) for piece in text.split(",")) if part]


def same_form(tag: str) -> str:
    """The form in which tags are compared: case, underscores and runs of whitespace make no difference."""
    return " ".join(tag.replace("_", " ").casefold().split())


def unique(parts: Iterable[str]) -> list[str]:
    """The parts in their order, each once (compared by `same_form`); the first spelling stays."""
    first: dict[str, str] = {}
    for part in parts:
        first.setdefault(same_form(part), part)
    return list(first.values())


def without(parts: Iterable[str], blacklist: Iterable[str]) -> list[str]:
    """The parts that no entry of `blacklist` names; `*` in an entry stands for any characters.

    >>> without(["1girl", "red hair", "blue hair"], ["* hair", "1GIRL"])
    []
    """
    forms = [form for form in map(same_form, blacklist) if form]
    exact = {form for form in forms if "*" not in form}
    patterns = [form.split("*") for form in forms if "*" in form]
    kept = []
    for part in parts:
        form = same_form(part)
        if form not in exact and not any(_fits(form, pieces) for pieces in patterns):
            kept.append(part)
    return kept


def _fits(text: str, pieces: list[str]) -> bool:
    """Whether `text` is `pieces` (two or more) in this order with anything between them.

    Not a regular expression: one with many `.*` takes ages on a text that does not fit.
    """
    first, *between, last = pieces
    if len(text) < len(first) + len(last) or not (text.startswith(first) and text.endswith(last)):
        return False
    place, end = len(first), len(text) - len(last)
    for piece in between:
        place = text.find(piece, place, end)
        if place < 0:
            return False
        place += len(piece)
    return True


def clean_caption(text: str) -> str:
    """A captioner's sentence: up to the first comma, one leading article dropped, whitespace collapsed.

    >>> clean_caption("a panda  on a car, in the snow")
    'panda on a car'
    """
    first = next(iter(split_parts(text)), "")
    return _ARTICLE.sub("", first, count=1) if _ARTICLE.match(first) else first


def clean_tags(text: str, limit: int = 0, blacklist: Iterable[str] = ()) -> list[str]:
    r"""A tagger's list: weights, emphasis and escapes removed, each tag once, at most `limit` (0: all).

    Blacklisted tags go before the limit counts. Underscores become spaces, except in kaomoji.

    >>> clean_tags(r"(long_hair:0.98), ((smile)), saber_\(fate\), ^_^, Smile")
    ['long hair', 'smile', 'saber (fate)', '^_^']
    """
    tags = map(_spaced, _without_brackets(text))
    kept = without(unique(tag for tag in tags if tag), blacklist)
    return kept[:limit] if limit > 0 else kept


def without_syntax(text: str) -> list[str]:
    r"""The parts of a caption without what a WebUI's prompt interprets and training would take literally.

    >>> without_syntax(r"(red hair:1.3) BREAK {park|street}, <lora:x:1>, saber \(fate\) &amp; co")
    ['red hair', 'park', 'saber (fate) & co']
    """
    text = NETWORK.sub("", html.unescape(text))
    for _ in range(_DEEPEST):
        before, text = text, CHOICE.sub(r"\1", text)
        if text == before:
            break
    text = WILDCARD.sub("", text.replace("|||", ","))
    return _without_brackets(WORDS.sub(",", text))


def _without_brackets(text: str) -> list[str]:
    """The parts without weights, emphasis and escapes."""
    aside = _ESCAPED.sub(lambda match: match[1].translate(_ASIDE), text)
    parts = (_without_emphasis(part).translate(_BACK) for part in split_parts(_without_weights(aside)))
    return [part for part in parts if part]


def _spaced(tag: str) -> str:
    return tag if tag in KAOMOJI else " ".join(tag.replace("_", " ").split())


def _without_weights(text: str) -> str:
    """`text` with `(...:1.2)` replaced by what is in the brackets, nested ones too."""
    gone: list[tuple[int, int]] = []
    for opening, closing in _pairs(text, "(").items():
        colon = text.rfind(":", max(opening, closing - _LONGEST_NUMBER), closing)
        weighted = colon > 0 and _NUMBER.fullmatch(text, colon + 1, closing)
        if weighted and text[opening + 1 : colon].strip():
            gone += [(opening, opening + 1), (colon, closing + 1)]
    ends = sorted(gone)
    kept = [text[start:end] for (_, start), (end, _) in zip([(0, 0), *ends], [*ends, (len(text), 0)])]
    return "".join(kept)


def _without_emphasis(part: str) -> str:
    """`part` without brackets around the whole of it, or left over from a group across commas."""
    while 0 < len(part) <= _LONGEST_TAG:
        pairs = _pairs(part)
        last = len(part) - 1
        if pairs.get(0) == last and last > 0:
            part = part[1:-1].strip()
        elif part[0] in _CLOSING and 0 not in pairs:
            part = part[1:].strip()
        elif part[-1] in _CLOSING.values() and last not in pairs.values():
            part = re.sub(r":\s*[+-]?\d*\.?\d+$", "", part[:-1].strip()).strip()
        else:
            return part
    return part


def _pairs(text: str, kinds: str = "([{") -> dict[int, int]:
    """Positions of matching brackets, opening to closing."""
    pairs: dict[int, int] = {}
    waiting: list[int] = []
    closing = {_CLOSING[kind] for kind in kinds}
    for position, character in enumerate(text):
        if character in kinds:
            waiting.append(position)
        elif character in closing and waiting and character == _CLOSING[text[waiting[-1]]]:
            pairs[waiting.pop()] = position
    return pairs

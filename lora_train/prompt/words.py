"""A prompt's words without the WebUI's syntax, which our own Generate does not support yet: it is reported, never
drawn.

Weights `(a:1.2)`, changes over the steps `[a:b:0.5]`, alternation `[a|b]`, BREAK and AND: as `modules/prompt_parser.py`
of the WebUI reads them. Every word counts once and in all steps.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

_KEYWORD = re.compile(r"\b(BREAK|AND(?:_PERP|_SALT|_TOPK)?|ADDBASE|ADDCOMM|ADDCOL|ADDROW)\b")
"""The WebUI's two keywords, and those of its popular extensions."""
_NUMBER = re.compile(r"\s*[-+]?(?:\d+\.?\d*|\.\d+)\s*")
_WILDCARD = re.compile(r"__[\w/*-]+__|\{[^{}|]*\|[^{}]*\}|\{\d+(?:-\d+)?\$\$[^{}]*\}")
_CLOSES = {"(": ")", "[": "]"}
_ESCAPED = "()[]\\"
_SHOWN = 60


@dataclass(frozen=True)
class Words:
    """The text that is drawn, and what a person should know about it."""

    text: str
    notes: tuple[str, ...] = ()


def words_of(prompt: str) -> Words:
    r"""The words of a prompt whose `<...>` have been removed; linear in its length.

    >>> words_of("(a cat:1.2) [on a chair:on a tree:0.5], day").text
    'a cat on a tree, day'
    >>> words_of(r"a cat \(1998\) BREAK a tree").text
    'a cat (1998) a tree'
    """
    notes: dict[str, str] = {}
    text = _without_keywords(_without_brackets(prompt, notes), notes)
    wildcard = _WILDCARD.search(text)
    if wildcard is not None:
        notes["wildcard"] = f"{wildcard[0]!r}: wildcards and choices are not supported here; it is read as words."
    return Words(re.sub(r"[ \t]{2,}", " ", text).strip(), tuple(notes.values()))


@dataclass
class _Group:
    """An open bracket: its parts between `:` and `|`, and these signs."""

    opened: str = ""
    start: int = 0
    parts: list[list[str]] = field(default_factory=lambda: [[]])
    signs: list[str] = field(default_factory=list)

    def add(self, text: str) -> None:
        self.parts[-1].append(text)

    def split(self, sign: str) -> None:
        self.signs.append(sign)
        self.parts.append([])

    def texts(self) -> list[str]:
        return ["".join(part) for part in self.parts]

    def written(self) -> str:
        """All of it as written, without the brackets."""
        return "".join(text + sign for text, sign in zip(self.texts(), [*self.signs, ""]))


def _without_brackets(prompt: str, notes: dict[str, str]) -> str:
    stack, at = [_Group()], 0
    while at < len(prompt):
        sign = prompt[at]
        if sign == "\\" and prompt[at + 1 : at + 2] and prompt[at + 1] in _ESCAPED:
            stack[-1].add(prompt[at + 1])
            at += 2
            continue
        if sign in _CLOSES:
            stack.append(_Group(sign, at))
        elif len(stack) > 1 and sign == _CLOSES[stack[-1].opened]:
            group = stack.pop()
            stack[-1].add(_drawn(group, prompt[group.start : at + 1], notes))
        elif len(stack) > 1 and sign in ":|":
            stack[-1].split(sign)
        else:
            stack[-1].add(sign)
        at += 1
    return "".join(group.opened + group.written() for group in stack)  # what is never closed, as written


def _drawn(group: _Group, source: str, notes: dict[str, str]) -> str:
    """What is drawn of a bracket, with a note the first time that something of its kind is not supported."""
    texts = group.texts()
    shown = source if len(source) <= _SHOWN else source[: _SHOWN - 4] + "..." + source[-1]
    counted = len(texts) > 1 and _NUMBER.fullmatch(texts[-1]) is not None
    if group.opened == "[" and ("|" in group.signs or counted):
        if "|" in group.signs:
            text = group.written().partition("|")[0]
        else:
            text = ":".join(texts[1:-1]) if len(texts) > 2 and "".join(texts[1:-1]).strip() else texts[0]
        drawn = f"{text.strip()!r} is drawn in all steps" if text.strip() else "its content counts in all steps"
        notes.setdefault("change", f"{shown}: changes over the steps are not supported here; {drawn}.")
        return text
    text = ":".join(texts[:-1]) if counted else group.written()
    if not (counted and float(texts[-1]) == 1.0):
        notes.setdefault("weight", f"{shown}: weights of words are not supported here; they count once.")
    return text


def _without_keywords(text: str, notes: dict[str, str]) -> str:
    pieces = _KEYWORD.split(text)
    words, found = pieces[::2], list(dict.fromkeys(pieces[1::2]))
    if not found:
        return text
    if any(keyword.startswith("AND") for keyword in found):
        words = [_without_weight(piece) for piece in words]
    notes["keyword"] = f"{', '.join(found)} is left out: the parts of a prompt are one text here."
    return " ".join(piece.strip() for piece in words)


def _without_weight(part: str) -> str:
    """A part between two AND, as in "a cat :1.2"."""
    text, colon, weight = part.rpartition(":")
    return text if colon and _NUMBER.fullmatch(weight) else part

r"""Weights of words, as the WebUI's prompts and sd-scripts' weighted captions write them: `(word:1.2)`, `(word)`,
`[word]`, and `\(` for a bracket.

After `parse_prompt_attention` of the WebUI (`modules/prompt_parser.py`): a bracket multiplies what is in it by 1.1, a
square one divides by it, a number after a colon is the factor itself.
"""

from __future__ import annotations

import re

_MARK = re.compile(r"\\[()\[\]\\]|:\s*([+-]?\d*\.?\d+)\s*\)|[()\[\]]")
_ROUND, _SQUARE = 1.1, 1 / 1.1


def weighted_parts(text: str) -> list[tuple[str, float]]:
    r"""The pieces of a text with their weights; neighbours differ in theirs.

    >>> weighted_parts(r"a (red:1.5) hat \(new\)")
    [('a ', 1.0), ('red', 1.5), (' hat (new)', 1.0)]
    """
    pieces: list[tuple[str, float]] = []
    opened: dict[str, list[int]] = {"(": [], "[": []}
    at = 0

    def multiply(start: int, factor: float) -> None:
        pieces[start:] = [(piece, weight * factor) for piece, weight in pieces[start:]]

    for found in _MARK.finditer(text):
        if found.start() > at:
            pieces.append((text[at : found.start()], 1.0))
        mark, at = found[0], found.end()
        if mark.startswith("\\"):
            pieces.append((mark[1:], 1.0))
        elif mark in opened:
            opened[mark].append(len(pieces))
        elif found[1] is not None and opened["("]:
            multiply(opened["("].pop(), float(found[1]))
        elif mark == ")" and opened["("]:
            multiply(opened["("].pop(), _ROUND)
        elif mark == "]" and opened["["]:
            multiply(opened["["].pop(), _SQUARE)
        else:
            pieces.append((mark, 1.0))
    pieces += [(text[at:], 1.0)] if at < len(text) else []
    for start in opened["("]:
        multiply(start, _ROUND)
    for start in opened["["]:
        multiply(start, _SQUARE)
    return _joined(pieces)


def plain_words(text: str) -> str:
    """The text without the marks of weights."""
    return "".join(piece for piece, _ in weighted_parts(text))


def _joined(pieces: list[tuple[str, float]]) -> list[tuple[str, float]]:
    joined: list[tuple[str, float]] = []
    for piece, weight in pieces:
        if joined and joined[-1][1] == weight:
            joined[-1] = joined[-1][0] + piece, weight
        else:
            joined.append((piece, weight))
    return joined

"""Which check to loosen where few pictures are left of a dataset, and how far."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

from lora_train.config import PrepareOptions
from lora_train.config.table import RANGES

Lines = list[dict[str, Any]]


@dataclass(frozen=True)
class Advice:
    """One check that leaves out many pictures, and the options with which it would not; worded for the page."""

    rule: str
    text: str
    button: str
    options: PrepareOptions


def advice(lines: Iterable[dict[str, Any]], options: PrepareOptions) -> list[Advice]:
    """What to loosen, the check that leaves out most first; empty where at least half of the pictures are kept.

    `lines` are the report's, with a person's later decisions.
    """
    lines = list(lines)
    left_out = [line for line in lines if line["outcome"] == "rejected"]
    by_rule: dict[str, Lines] = {}
    for line in left_out:
        by_rule.setdefault(line["rule"], []).append(line)
    if len(left_out) * 2 <= len(lines):
        return []
    found = []
    for rule, those in sorted(by_rule.items(), key=lambda item: -len(item[1])):
        check = CHECKS.get(rule)
        loosened = check.loosened(those, options) if check else None
        if check is None or loosened is None or len(those) * 5 < len(left_out):
            continue
        button, changes = loosened
        text = f"{check.name} leaves out {len(those)} of {len(lines)} pictures."
        found.append(Advice(rule, text, button, replace(options, **changes)))
    return found


@dataclass(frozen=True)
class _Check:
    name: str
    loosened: Callable[[Lines, PrepareOptions], tuple[str, dict[str, Any]] | None]
    """A check's name, and a function that returns the button's text and the changed options, or None."""


def _limit(option: str, label: str, score: str, upwards: bool) -> Callable[[Lines, PrepareOptions], Any]:
    """A limit moved just far enough to let everything pass that it leaves out now."""

    def loosened(lines: Lines, options: PrepareOptions) -> tuple[str, dict[str, Any]] | None:
        scores = [line["scores"].get(score) for line in lines]
        known = [one for one in scores if isinstance(one, (int, float))]
        if not known:
            return None
        # one hundredth further than the last score, which the report has rounded
        whole = math.floor(max(known) * 100) + 1 if upwards else math.ceil(min(known) * 100) - 1
        low, high = RANGES[f"prepare.{option}"]
        value = min(high, max(low, whole / 100))
        word = "Raise" if upwards else "Lower"
        return f"{word} the {label} from {getattr(options, option):g} to {value:g}", {option: value}

    return loosened


def _least_size(lines: Lines, options: PrepareOptions) -> tuple[str, dict[str, Any]]:
    value = min(max(line["size"]) for line in lines)
    return f"Lower the minimum size to {value} pixels", {"min_size": value}


def _whole_pictures(lines: Lines, options: PrepareOptions) -> tuple[str, dict[str, Any]] | None:
    """A limit does not help where no face or body is found; taking the pictures as they are does."""
    if "original" in options.operations:
        return None
    return "Also use the whole pictures", {"operations": ("original", *options.operations)}


_FACE, _BODY = _Check("Face", _whole_pictures), _Check("Body", _whole_pictures)
CHECKS: dict[str, _Check] = {
    "range": _Check("The light check", _limit("min_range", "lowest light score", "range", upwards=False)),
    "blur": _Check("The blur check", _limit("max_blur", "highest blur score", "blur", upwards=True)),
    "similar": _Check("The similar check", _limit("max_similarity", "highest similarity", "similar", upwards=True)),
    "too small": _Check("The minimum size", _least_size),
    "no face": _FACE,
    "face out of frame": _FACE,
    "no body": _BODY,
    "too few parts of the body": _BODY,
}
"""By the report's rules."""

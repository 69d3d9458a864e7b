"""Whether a view is kept, from its record and the thresholds; no picture is opened for that."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from lora_train.data.scan import LEAST_SIDE
from lora_train.prepare.base import Plan
from lora_train.prepare.operations import Check, Comparison, active
from lora_train.prepare.operations.similar import Kept, mirrored
from lora_train.prepare.operations.similar import reason as similar_reason
from lora_train.prepare.operations.upscale import FACTOR
from lora_train.prepare.records import Record, ViewRecord
from lora_train.prepare.report import Entry, Verdict, entry_key

_FOUND = {"face": "face found but only", "body": "body found but only", "original": "the picture is only"}


_COPY = re.compile(r"\(\d+\)$|\b(copy|kopie|copie|copia)\b|[-_ ]copy\d*$", re.IGNORECASE)
"""How file managers name a copy: "a (1)", "a - Copy", "Copy of a", "a copy 2"."""
KEPT = Verdict(True)
LEFT_OUT = Verdict(False, "left out by you", "left out by you")


@dataclass
class Input:
    """A file of the input folder, and what is known about it."""

    path: Path
    relative: Path
    record: Record = field(default_factory=lambda: Record(""))
    captioned: bool = False
    """Whether somebody has written a caption for it."""


def decide(inputs: list[Input], plan: Plan, overrules: dict[str, bool]) -> list[Entry]:
    """The verdict on every view, in the order of paths: of similar pictures the best stays (see `_rank`).

    `overrules` are a person's decisions, by the entries' keys.
    """
    entries, ranks = [], {}
    for one in inputs:
        record = one.record
        if record.broken:
            key = entry_key(one.relative, record.content, "file")
            entries.append(Entry(key, one.path, one.relative, record, None, broken(record.broken)))
        for view in record.views:
            key = entry_key(one.relative, record.content, view.operation)
            entry = Entry(key, one.path, one.relative, record, view, verdict(view, plan))
            entry.overruled = overrules.get(key) if entry.possible else None
            if entry.overruled is not None:
                entry.verdict = KEPT if entry.overruled else LEFT_OUT
            ranks[key] = _rank(one, view, entry.overruled is True)
            entries.append(entry)
    if active(Comparison, plan):
        kept, names = Kept(), {e.key: f"{e.relative.as_posix()} ({e.view.operation})" for e in entries if e.view}
        for entry in sorted((e for e in entries if e.view and e.verdict.kept), key=lambda e: ranks[e.key]):
            _compare(entry, kept, names, plan)
    return entries


def _rank(one: Input, view: ViewRecord, wanted: bool) -> tuple[bool, bool, int, bool]:
    """The smaller is the better of two similar pictures: one with a caption, larger, not named like a copy; else the
    first by path. A picture that a person also wants stays whatever it is similar to, and rejects none."""
    return wanted, not one.captioned, -view.size[0] * view.size[1], bool(_COPY.search(one.path.stem))


def broken(reason: str) -> Verdict:
    """The verdict on an unusable file; the detail of the reason, in brackets, is not part of the rule."""
    return Verdict(False, reason.split(" (")[0], reason)


def _compare(entry: Entry, kept: Kept, names: dict[str, str], plan: Plan) -> None:
    assert entry.view
    signature = entry.view.signature
    plain, turned = kept.nearest(signature), kept.nearest(mirrored(signature))
    entry.similarity, entry.twin = max(plain, turned, key=lambda found: found[0])
    if entry.similarity > plan.options.max_similarity and entry.overruled is None:
        other = names[entry.twin] + (", mirrored" if turned[0] > plain[0] else "")
        entry.verdict = Verdict(False, "similar", similar_reason(entry.similarity, other))
    else:
        kept.add(entry.key, signature)


def verdict(view: ViewRecord, plan: Plan) -> Verdict:
    """The verdict on one view by itself; similarity to others is judged elsewhere."""
    if not view.possible:
        return Verdict(False, view.rule, view.reason)
    if view.problem:
        return Verdict(False, *view.problem)
    for rule, check_size in (("too small", too_small), ("too thin", too_thin)):
        if reason := check_size(view, plan):
            return Verdict(False, rule, reason)
    for name, check in active(Check, plan).items():
        reason = check.verdict(view.scores[name], plan.options) if name in view.scores else ""
        if reason:
            return Verdict(False, name, reason)
    return KEPT


def too_small(view: ViewRecord, plan: Plan) -> str:
    """Why a view with both sides below the minimum size is rejected; "" when it is not.

    Where the host can upscale, the upscaled size counts.
    """
    longest, least = max(view.size), plan.min_size
    upscaled = longest * FACTOR if plan.upscale and longest < plan.target else longest
    if upscaled >= least:
        return ""
    what, side = _FOUND.get(view.operation, f"{view.operation} is only"), _side(view.size)
    if upscaled != longest:
        return f"{what} {longest} px {side}, {upscaled} when upscaled; needs {least}"
    help = "; switch on upscale" if not plan.has("upscale") and longest * FACTOR >= least else ""
    return f"{what} {longest} px {side}; needs {least}{help}"


def too_thin(view: ViewRecord, plan: Plan) -> str:
    """Why a view is rejected of which a training would leave out what is made here; "" when it is not."""
    longest, shortest = max(view.size), min(view.size)
    made = round(shortest * plan.target / longest) if plan.has("resize") and longest > plan.target else shortest
    if plan.has("square") or made >= LEAST_SIDE:
        return ""
    resized = f", {plan.target} x {made} when resized" if made != shortest else ""
    return f"it is only {view.size[0]} x {view.size[1]} pixels{resized}; nothing can be learned from it"


def _side(size: tuple[int, int]) -> str:
    return "wide" if size[0] >= size[1] else "high"

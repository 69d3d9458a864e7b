"""Whether a view is kept, from what is known of it and the thresholds; no picture is opened for that."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from lora_train.data.prepare.base import Plan
from lora_train.data.prepare.operations import Check, Comparison, active
from lora_train.data.prepare.operations.similar import Kept
from lora_train.data.prepare.operations.similar import reason as similar_reason
from lora_train.data.prepare.operations.upscale import FACTOR
from lora_train.data.prepare.records import Record, ViewRecord
from lora_train.data.prepare.report import Entry, Verdict, entry_key

_FOUND = {"face": "face found but only", "body": "body found but only", "original": "the picture is only"}


KEPT = Verdict(True)
LEFT_OUT = Verdict(False, "left out by you", "left out by you")


@dataclass
class Input:
    """A file of the input folder, and what is known of it."""

    path: Path
    relative: Path
    record: Record = field(default_factory=lambda: Record(""))


def decide(inputs: list[Input], plan: Plan, overrules: dict[str, bool]) -> list[Entry]:
    """The verdict on every view, in the order of paths: of similar pictures the first stays.

    `overrules` is what a person decided, by the entries' keys.
    """
    kept, compare = Kept(), bool(active(Comparison, plan))
    names: dict[str, str] = {}
    entries = []
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
            names[key] = f"{one.relative.as_posix()} ({view.operation})"
            if compare and entry.verdict.kept:
                _compare(entry, view, kept, names, plan)
            entries.append(entry)
    return entries


def broken(reason: str) -> Verdict:
    """The verdict on what cannot be used; the reason's detail, in brackets, is no part of the rule."""
    return Verdict(False, reason.split(" (")[0], reason)


def _compare(entry: Entry, view: ViewRecord, kept: Kept, names: dict[str, str], plan: Plan) -> None:
    entry.similarity, entry.twin = kept.nearest(view.signature)
    if entry.similarity > plan.options.max_similarity and entry.overruled is None:
        entry.verdict = Verdict(False, "similar", similar_reason(entry.similarity, names[entry.twin]))
    else:
        kept.add(entry.key, view.signature)


def verdict(view: ViewRecord, plan: Plan) -> Verdict:
    """The verdict on one view by itself; similarity to others is judged elsewhere."""
    if not view.possible:
        return Verdict(False, view.rule, view.reason)
    if view.problem:
        return Verdict(False, *view.problem)
    reason = too_small(view, plan)
    if reason:
        return Verdict(False, "too small", reason)
    for name, check in active(Check, plan).items():
        reason = check.verdict(view.scores[name], plan.options) if name in view.scores else ""
        if reason:
            return Verdict(False, name, reason)
    return KEPT


def too_small(view: ViewRecord, plan: Plan) -> str:
    """Why a view is rejected both of whose sides are under the least size; "" when it is not.

    Where the host can upscale, the size that it would give counts.
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


def _side(size: tuple[int, int]) -> str:
    return "wide" if size[0] >= size[1] else "high"

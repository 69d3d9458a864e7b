"""Whether a view is kept, from what is known of it and the thresholds; no picture is opened for that."""

from __future__ import annotations

from dataclasses import dataclass

from lora_train.data.prepare.base import Plan
from lora_train.data.prepare.operations import Check, active
from lora_train.data.prepare.operations.upscale import FACTOR
from lora_train.data.prepare.records import ViewRecord

_FOUND = {"face": "face found but only", "body": "body found but only", "original": "the picture is only"}


@dataclass(frozen=True)
class Verdict:
    """Kept, or rejected by a rule ("blur") for a reason in plain words."""

    kept: bool
    rule: str = ""
    reason: str = ""


KEPT = Verdict(True)


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

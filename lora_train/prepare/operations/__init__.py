"""The operations, in the order in which they run. Adding one is a file here and a line in the table.

`interrogate` is not among them: captions come from a service, after everything else.
"""

from __future__ import annotations

from typing import TypeVar

from lora_train.prepare.base import Plan
from lora_train.prepare.operations import (
    blur,
    body,
    dynamic_range,
    face,
    original,
    resize,
    restore,
    segment,
    similar,
    square,
    upscale,
)
from lora_train.prepare.operations.base import Check, Comparison, Edit, Operation, Service, Source

TABLE: dict[str, Operation] = {
    "original": Source(original.make),
    "face": Source(face.make, options=("face_score", "face_pad"), roles=("face",)),
    "body": Source(body.make, options=body.OPTIONS, roles=("face", "body")),
    "blur": Check(blur.score, blur.verdict),
    "range": Check(dynamic_range.score, dynamic_range.verdict),
    "similar": Comparison(similar.signature),
    "upscale": Service(upscale.wanted, options=("upscaler",)),
    "restore": Service(restore.wanted, options=("restore_weight",)),
    "segment": Edit(segment.apply, options=("segment_threshold",), roles=("segment",)),
    "resize": Edit(resize.apply),
    "square": Edit(square.apply),
}

KINDS: tuple[type[Operation], ...] = (Source, Check, Comparison, Service, Edit)
Kind = TypeVar("Kind", bound=Operation)


def active(kind: type[Kind], plan: Plan) -> dict[str, Kind]:
    """The operations of one kind that are on and possible here, by name.

    Without any source, the original is used. A service counts when the host has it.
    """
    found = {name: one for name, one in TABLE.items() if isinstance(one, kind) and plan.has(name)}
    if kind is Source and not found:
        found = {name: one for name, one in TABLE.items() if name == "original" and isinstance(one, kind)}
    if kind is Service:
        found = {name: one for name, one in found.items() if getattr(plan, name)}
    return {name: one for name, one in found.items() if all(role in plan.detectors for role in _roles(one))}


def _roles(operation: Operation) -> tuple[str, ...]:
    return operation.roles if isinstance(operation, (Source, Edit)) else ()


__all__ = ["KINDS", "TABLE", "Check", "Comparison", "Edit", "Operation", "Service", "Source", "active"]

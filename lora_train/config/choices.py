"""The names from which options are chosen."""

from __future__ import annotations

from lora_train.records.kinds import KINDS as _KINDS

KINDS = _KINDS.names()
DECOMPOSED = _KINDS.names(lambda kind: kind.decomposable)
"""Kinds that DoRA can be applied to."""
SCALABLE = _KINDS.names(lambda kind: kind.scalable)
"""Kinds whose delta can be shrunk (max-norm scaling)."""
STARTS = ("default", "pissa", "olora")

# in the order in which they run
PREPARE_OPERATIONS = (
    "original",
    "face",
    "body",
    "blur",
    "range",
    "similar",
    "upscale",
    "restore",
    "segment",
    "resize",
    "square",
    "interrogate",
)

PRECISIONS = ("auto", "fp32", "bf16", "fp16")
SAVE_PRECISIONS = ("fp16", "bf16", "fp32")
BASE_PRECISIONS = ("auto", "full", "fp8", "int8", "nf4")
"""How the frozen base can be stored; "full" is the precision that it computes in."""

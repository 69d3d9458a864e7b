"""The names that options choose from."""

from __future__ import annotations

KINDS = ("lora", "loha", "lokr", "oft", "boft", "ia3", "glora", "full", "norm")
DECOMPOSED = ("lora", "loha", "lokr")
"""Kinds that DoRA can be around."""
SCALABLE = ("lora", "loha", "lokr", "full", "norm")
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

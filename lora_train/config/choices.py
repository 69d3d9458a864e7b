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

TRACKERS = {
    "auto": "",
    "none": "",
    "tensorboard": "tensorboard",
    "wandb": "wandb",
    "mlflow": "mlflow",
    "comet_ml": "comet_ml",
    "aim": "aim",
    "clearml": "clearml",
    "dvclive": "dvclive",
    "swanlab": "swanlab",
    "trackio": "trackio",
    "all": "",
}
"""Where the numbers of each step go besides log.csv, and the package that each needs."""

"""The configuration of a run: options, their checks, and automatic choices. Plain data, no torch."""

from lora_train.config.automatic import Choice, Facts, resolve
from lora_train.config.idle import idle_notes
from lora_train.config.run import (
    DataOptions,
    ModelOptions,
    NetworkOptions,
    PrepareOptions,
    PreviewOptions,
    RunConfig,
    SaveOptions,
    TrainOptions,
)
from lora_train.config.validate import check, problems

__all__ = [
    "Choice",
    "DataOptions",
    "Facts",
    "ModelOptions",
    "NetworkOptions",
    "PrepareOptions",
    "PreviewOptions",
    "RunConfig",
    "SaveOptions",
    "TrainOptions",
    "check",
    "idle_notes",
    "problems",
    "resolve",
]

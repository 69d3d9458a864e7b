"""Preparing pictures for training: cropped, checked, captioned. See `pipeline.prepare`."""

from lora_train.prepare.base import Services
from lora_train.prepare.pipeline import Prepared, prepare
from lora_train.prepare.report import overrule

__all__ = ["Prepared", "Services", "overrule", "prepare"]

"""The family of base models for which a LoRA file was made."""

from __future__ import annotations

from lora_train.lorafile.families import SD, family_of
from lora_train.lorafile.reading import LoraFile


def made_for(file: LoraFile) -> str:
    """ "SD 1.x", "SD 2.x", "SDXL" or another family; empty if it cannot be determined."""
    family = family_of(file.by_module(), file.metadata)
    return "" if family == SD else family

"""For which family of base models a LoRA file was made."""

from __future__ import annotations

from lora_train.lorafile.families import SD, family_of
from lora_train.lorafile.reading import LoraFile


def made_for(file: LoraFile) -> str:
    """ "SD 1.x", "SD 2.x", "SDXL" or another family; empty when nothing tells, or not which of the first two."""
    family = family_of(file.by_module(), file.metadata)
    return "" if family == SD else family

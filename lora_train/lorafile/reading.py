"""Read LoRA files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from lora_train.errors import LoraTrainError
from lora_train.tensors import read_header, read_tensors


@dataclass(frozen=True)
class LoraFile:
    """A LoRA as read: tensors by full key, and the file's metadata."""

    path: Path
    tensors: dict[str, torch.Tensor]
    metadata: dict[str, str]

    def by_module(self) -> dict[str, dict[str, torch.Tensor]]:
        """Tensors grouped by module name, keyed by the last part ("lora_up.weight", "alpha")."""
        grouped: dict[str, dict[str, torch.Tensor]] = {}
        for key, value in self.tensors.items():
            module, part = key.split(".", 1)
            grouped.setdefault(module, {})[part] = value
        return grouped


def read_lora(path: Path) -> LoraFile:
    """Read a LoRA file with kohya's keys. Raises LoraTrainError when it is not one."""
    if not path.is_file():
        raise LoraTrainError("there is no such LoRA file.", str(path), "Check its name.")
    metadata = {}
    if path.suffix.lower() == ".safetensors":
        found = read_header(path).get("__metadata__", {})
        metadata = {str(k): str(v) for k, v in found.items()}
    tensors = read_tensors(path)
    odd = [key for key in tensors if not key.startswith("lora_") or "." not in key]
    if odd:
        named = ", ".join(odd[:3]) + (" ..." if len(odd) > 3 else "")
        raise LoraTrainError(
            f"{len(odd)} of its {len(tensors)} keys are not a LoRA's ({named}).", str(path), "Use a LoRA file."
        )
    return LoraFile(path, tensors, metadata)

"""LoRA training for the AUTOMATIC1111 WebUI, and without it.

Importing this package imports no torch: the WebUI's start must not become slower.
The Python API is `lora_train.run_training` and `lora_train.generate`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lora_train.version import __version__ as __version__

if TYPE_CHECKING:
    from lora_train.config import RunConfig as RunConfig
    from lora_train.errors import LoraTrainError as LoraTrainError
    from lora_train.prompt.generate import generate as generate
    from lora_train.runs.execute import run_training as run_training

_LAZY = {
    "RunConfig": "lora_train.config",
    "LoraTrainError": "lora_train.errors",
    "run_training": "lora_train.runs.execute",
    "generate": "lora_train.prompt.generate",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'lora_train' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_LAZY[name]), name)

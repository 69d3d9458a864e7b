"""What a host gives. Each method says what happens where the host lacks it."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol


class Host(Protocol):
    """A WebUI, or the stand-in when there is none."""

    name: str

    def lora_dir(self) -> Path:
        """Where LoRA files go unless the person says otherwise."""
        ...

    def data_dir(self) -> Path:
        """Where runs and caches are kept."""
        ...

    def default_model(self) -> str:
        """The base model offered first; "" when there is none."""
        ...

    def lend_gpu(self) -> AbstractContextManager[None]:
        """Within the block the device is free for training; nothing to do where there is no generation model."""
        ...

    def refresh_loras(self) -> None:
        """Make the host notice new LoRA files; nothing to do where it looks each time."""
        ...

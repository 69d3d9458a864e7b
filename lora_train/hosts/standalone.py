"""No WebUI: the page, the command line and the Python API on their own."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from lora_train.demo.files import base_folder


class StandaloneHost:
    """Keeps everything below one folder: `LORA_TRAIN_DATA`, or `lora-train-data` where it was started."""

    name = "standalone"

    def __init__(self, data: Path | None = None) -> None:
        self._data = data or Path(os.environ.get("LORA_TRAIN_DATA", "lora-train-data")).absolute()

    def lora_dir(self) -> Path:
        """See Host."""
        return self._data / "loras"

    def data_dir(self) -> Path:
        """See Host."""
        return self._data

    def default_model(self) -> str:
        """See Host: the demo's base, when it is there."""
        folder = base_folder()
        return str(folder) if (folder / "model_index.json").is_file() else ""

    def lend_gpu(self) -> AbstractContextManager[None]:
        """See Host."""
        return nullcontext()

    def refresh_loras(self) -> None:
        """See Host."""

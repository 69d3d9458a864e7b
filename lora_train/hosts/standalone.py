"""Without a WebUI: the page, the command line and the Python API on their own."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_train.demo.files import base_folder
from lora_train.errors import LoraTrainError, Problem
from lora_train.hosts.base import Note, never
from lora_train.hosts.settings import Settings

if TYPE_CHECKING:
    from PIL import Image

DATA_VARIABLE, CAPTIONER_VARIABLE = "LORA_TRAIN_DATA", "LORA_TRAIN_CAPTIONER"


class StandaloneHost:
    """Keeps everything below one folder: `LORA_TRAIN_DATA`, or `lora-train-data` where the program was started.

    `captioner` is a transformers image-to-text model, by folder or by the id of one in the hub's cache;
    `offline` downloads nothing.
    """

    name = "standalone"
    improves = False

    def __init__(self, data: Path | None = None, captioner: str = "", offline: bool = False) -> None:
        self.downloads = not offline
        self._data = data or Path(os.environ.get(DATA_VARIABLE, "lora-train-data")).absolute()
        self._captioner = captioner or os.environ.get(CAPTIONER_VARIABLE, "")

    def checkpoints(self) -> list[Path]:
        """See Host: the demo's base, if it is there."""
        folder = base_folder()
        return [folder] if (folder / "model_index.json").is_file() else []

    def look_for_checkpoints(self) -> None:
        """See Host: there is no list."""

    def current_checkpoint(self) -> Path | None:
        return next(iter(self.checkpoints()), None)

    def tokenizers(self) -> list[Any]:
        return []

    def device(self) -> str:
        return "auto"

    def lora_dir(self) -> Path:
        return self._data / "loras"

    def data_dir(self) -> Path:
        return self._data

    def settings(self) -> Settings:
        return Settings()

    def may_read(self, path: Path) -> bool:
        """See Host: the server listens only on this machine."""
        return True

    def may_write(self, path: Path) -> bool:
        """See Host: only below the data folder."""
        return path.expanduser().resolve().is_relative_to(self._data.resolve())

    def may_run_programs(self) -> bool:
        """See Host: people who have the page's token, or the command line, have these rights anyway."""
        return True

    def caption_kinds(self) -> tuple[str, ...]:
        return ("blip",) if self._captioner else ()

    def face_weights(self) -> list[Path]:
        return []

    def caption(self, pictures: Iterable[Image.Image], kind: str) -> Iterator[str]:
        """See Host: by a transformers model; no tags."""
        from lora_train.captions.captioners.transformers_model import transformers_captions

        if kind != "blip" or not self._captioner:
            raise LoraTrainError(
                "there is no captioner here.",
                "captions",
                f"Set {CAPTIONER_VARIABLE} to the folder or id of a transformers image-to-text model, "
                "or use a running WebUI with --server, or write .txt files beside the pictures.",
            )
        yield from transformers_captions(self._captioner, pictures)

    def restore_faces(self, pictures: Iterable[Image.Image], weight: float) -> Iterator[Image.Image]:
        raise LoraTrainError("there is no face restoration here.", "restore", "Use a WebUI (--server).")

    def upscale(self, pictures: Iterable[Image.Image], factor: float, name: str) -> Iterator[Image.Image]:
        raise LoraTrainError("there is no upscaler here.", "upscale", "Use a WebUI (--server).")

    def lend_gpu(self, stopped: Callable[[], bool] = never, note: Note = print) -> AbstractContextManager[None]:
        return nullcontext()

    def refresh_loras(self, changed: Path | None = None) -> None:
        """See Host: the folder is read every time."""

    def report_progress(self, run: str, done: int, total: int, text: str) -> None:
        """See Host: there is no progress bar."""

    def unreachable(self) -> list[Problem]:
        return []

    def check_shutdown(self) -> None:
        raise LoraTrainError("there is no WebUI to stop.", "--shutdown", "Name it with --server URL.")

    def shutdown(self) -> None:
        self.check_shutdown()

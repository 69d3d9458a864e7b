"""The interface of a host. Each method says what happens where a host lacks the feature."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from lora_train.errors import Problem
from lora_train.hosts.settings import Settings

if TYPE_CHECKING:
    from PIL import Image

Note = Callable[[str], None]
"""Shows the person a text, which also goes into the run's events."""

CAPTION_KINDS = ("blip", "deepbooru")


def never() -> bool:
    """A `stopped` that never stops."""
    return False


class Host(Protocol):
    """A WebUI, or the stand-in when there is none."""

    name: str
    improves: bool
    """Whether it can upscale pictures and restore faces."""

    downloads: bool
    """Whether small files that are missing (CLIP's vocabulary) may be fetched from the Hugging Face hub."""

    def checkpoints(self) -> list[Path]:
        """Base models that the host knows; empty where it knows none."""
        ...

    def look_for_checkpoints(self) -> None:
        """Search the folders of base models again, where the host keeps a list of them."""
        ...

    def current_checkpoint(self) -> Path | None:
        """The base model in use, offered first; None when there is none."""
        ...

    def tokenizers(self) -> list[Any]:
        """CLIP tokenizers of the loaded model or among the host's own files, tried for checkpoints without one;
        may be empty."""
        ...

    def device(self) -> str:
        """The torch device that "auto" means here, such as "cuda:1" where the host was started with it; or "auto"."""
        ...

    def lora_dir(self) -> Path:
        """Where LoRA files go unless the person says otherwise."""
        ...

    def data_dir(self) -> Path:
        """Where runs and caches are kept."""
        ...

    def settings(self) -> Settings:
        """The person's settings; the defaults where the host has no settings page."""
        ...

    def may_read(self, path: Path) -> bool:
        """Whether a person at the page may read this path; always True on one's own machine."""
        ...

    def may_write(self, path: Path) -> bool:
        """Whether a run started over the routes may put its LoRA into this folder.

        Only below the host's own folders and those that its settings name.
        """
        ...

    def may_run_programs(self) -> bool:
        """Whether a person's own program may caption here (`captioner: command`), with the server's rights."""
        ...

    def caption_kinds(self) -> tuple[str, ...]:
        """Which of CAPTION_KINDS `caption` can do here, as far as can be seen without loading a model."""
        ...

    def face_weights(self) -> list[Path]:
        """Folders in which the host keeps facexlib's weights; empty where it has none."""
        ...

    def caption(self, pictures: Iterable[Image.Image], kind: str) -> Iterator[str]:
        """One caption ("blip") or tag list ("deepbooru") per picture, in order.

        The model is loaded at the first picture and unloaded at the end, however the iteration ends.
        Raises LoraTrainError, with what to do, where the host has no such model.
        """
        ...

    def restore_faces(self, pictures: Iterable[Image.Image], weight: float) -> Iterator[Image.Image]:
        """Pictures with faces restored; `weight` is CodeFormer's (0: strongest). Unloads as `caption` does.

        Raises LoraTrainError where the host has no restorer, or it did nothing because its weights are missing.
        """
        ...

    def upscale(self, pictures: Iterable[Image.Image], factor: float, name: str) -> Iterator[Image.Image]:
        """Enlarged pictures by the named upscaler ("" for the host's best). Unloads as `caption` does.

        Raises LoraTrainError where the host has no upscaler of that name.
        """
        ...

    def lend_gpu(self, stopped: Callable[[], bool] = never, note: Note = print) -> AbstractContextManager[None]:
        """Within the block the device is free for training, and generation waits or is refused.

        On leaving, whatever happened, the generation model is back and generation continues. Raises
        Stopped when `stopped` says so before it is the training's turn. Does nothing where there is
        no generation model.
        """
        ...

    def refresh_loras(self, changed: Path | None = None) -> None:
        """Make the host notice new LoRA files, `changed` even if it is cached."""
        ...

    def report_progress(self, run: str, done: int, total: int, text: str) -> None:
        """Show the run's progress in the host's own progress bar; does nothing where it has none."""
        ...

    def unreachable(self) -> list[Problem]:
        """Why the host does not answer now; empty where it does, or where no network is involved."""
        ...

    def check_shutdown(self) -> None:
        """Raises LoraTrainError where `shutdown` is not possible, before anything is done."""
        ...

    def shutdown(self) -> None:
        """Stop the host's server, to free all of its memory. Raises LoraTrainError where that is not possible."""
        ...

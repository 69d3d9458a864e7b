"""Settings that a person changes in the WebUI while a LoRA trains: stored at once, applied afterwards.

The WebUI applies some of them in its job queue (another checkpoint, another VAE). There the page would hang
until the training ends, and where the queue refuses, the WebUI resets the setting.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from lora_train.hosts.base import Note

log = logging.getLogger("lora_train")
_QUEUED = "wrap_queued_call."
"""The beginning of the name of the WebUI's wrapper for functions that run in its queue."""


class PostponedSettings:
    """The settings changed within `noted`; `carry_out` does for each what the WebUI would have done."""

    def __init__(self, note: Note) -> None:
        self._note = note
        self._changed: dict[str, tuple[str, Callable[[], Any]]] = {}

    @contextmanager
    def noted(self) -> Iterator[None]:
        """Within the block a change of such a setting is only recorded."""
        from modules import shared

        labels: dict[str, Any] = getattr(shared.opts, "data_labels", {})
        queued = {key: info for key, info in labels.items() if _is_queued(getattr(info, "onchange", None))}
        before = {key: info.onchange for key, info in queued.items()}
        for key, info in queued.items():
            info.onchange = self._noting(key, info, before[key])
        try:
            yield
        finally:
            for key, info in queued.items():
                info.onchange = before[key]

    def _noting(self, key: str, info: Any, action: Callable[[], Any]) -> Callable[[], None]:
        def noted() -> None:
            self._changed[key] = str(getattr(info, "label", key)), action
            self._note(f"The setting {self._changed[key][0]!r} was changed; it takes effect when the training ends.")

        return noted

    def carry_out(self) -> None:
        """To be called without holding the queue: each action waits for its turn there."""
        for label, action in self._changed.values():
            try:
                action()
            except Exception as error:
                log.exception("the setting %s could not be applied", label)
                self._note(f"The setting {label!r} could not be applied ({error}).")
        self._changed.clear()


def _is_queued(action: Any) -> bool:
    return str(getattr(action, "__qualname__", "")).startswith(_QUEUED)

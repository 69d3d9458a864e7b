"""A live progress line in the terminal, fed by a run's events."""

from __future__ import annotations

import shutil
import sys
from typing import Any, TextIO


class ProgressBar:
    """Shows one line that changes; plain lines now and then where the output is no terminal."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._live = self._stream.isatty()
        self._open_line = False

    def on_event(self, event: dict[str, Any]) -> None:
        """Show one event of a run."""
        show = {
            "note": lambda: self._line(event["text"]),
            "rejected": lambda: self._line(f"Left out {event['file']}: {event['reason']}."),
            "choices": lambda: self._choices(event["choices"]),
            "prepare": lambda: self._prepared(event["done"], event["total"]),
            "step": lambda: self._step(event),
            "saved": lambda: self._line(f"Saved after {event['step']} steps: {event['path']}"),
        }.get(event["kind"])
        if show is not None:
            show()

    def close(self) -> None:
        """End the changing line."""
        if self._open_line:
            self._stream.write("\n")
            self._open_line = False
        self._stream.flush()

    def _choices(self, choices: list[dict[str, Any]]) -> None:
        for choice in choices:
            self._line(f"  {choice['field']} = {choice['value']}: {choice['why']}")

    def _prepared(self, done: int, total: int) -> None:
        self._bar("Preparing", done, total, "")

    def _step(self, event: dict[str, Any]) -> None:
        step = event["step"]
        left = round(event["seconds_left"])
        speed = f"{event['pictures_per_second']:.1f} pictures/s"
        text = f"loss {event['smoothed']:.4f}  {speed}  {left // 60}:{left % 60:02d} left"
        self._bar("Training", step, event["of"], text)

    def _bar(self, what: str, done: int, total: int, text: str) -> None:
        if not self._live:
            if done == total or done % max(1, total // 10) == 0:
                self._line(f"{what} {done}/{total}  {text}".rstrip())
            return
        filled = 24 * done // max(1, total)
        line = f"{what} [{'#' * filled}{'.' * (24 - filled)}] {done}/{total}  {text}"
        width = shutil.get_terminal_size().columns - 1
        self._stream.write("\r" + line[:width].ljust(width))
        self._stream.flush()
        self._open_line = True

    def _line(self, text: str) -> None:
        self.close()
        self._stream.write(text + "\n")
        self._stream.flush()

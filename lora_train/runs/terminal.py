"""A run in the terminal: a live progress line fed by its events, and Ctrl-C that saves."""

from __future__ import annotations

import shutil
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TextIO

from lora_train.config import RunConfig
from lora_train.config.wording import in_flags
from lora_train.console import own_command
from lora_train.hosts.base import Host
from lora_train.runs.execute import resume_training, run_training
from lora_train.runs.folder import RunFolder
from lora_train.runs.stages import Result, Stages
from lora_train.showing import as_shown

Listener = Callable[[dict[str, Any]], None]

STOPPED_CODE = 128
"""Plus the signal's number: the exit code after Ctrl-C and the like, as in shells."""
SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
"""Ctrl-C, a system that shuts down, a terminal that was closed: each saves and stops."""


class ProgressBar:
    """Shows one line that changes; plain lines now and then where the output is not a terminal."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._live = self._stream.isatty()
        self._open_line = False

    def on_event(self, event: dict[str, Any]) -> None:
        """Show one event of a run."""
        show = {
            "note": lambda: self._line(in_flags(event["text"])),
            "rejected": lambda: self._line(f"Left out {event['file']}: {event['reason']}."),
            "choices": lambda: self._choices(event["choices"]),
            "prepare": lambda: self.show(f"Preparing {event['stage']}", event["done"], event["total"], ""),
            "step": lambda: self._step(event),
            "validation": lambda: self._validation(event),
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
            self._line(f"  {in_flags(choice['field'])} = {choice['value']}: {choice['why']}")

    def _validation(self, event: dict[str, Any]) -> None:
        lowest = ", the lowest so far" if event["lowest"] else ""
        self._line(f"Validation loss after {event['step']} steps: {event['loss']:.4f}{lowest}")

    def _step(self, event: dict[str, Any]) -> None:
        step = event["step"]
        speed = f"{event['pictures_per_second']:.1f} pictures/s"
        text = f"loss {event['smoothed']:.4f}  {speed}  {clock(event['seconds_left'])} left"
        self.show("Training", step, event["of"], text)

    def show(self, what: str, done: int, total: int, text: str) -> None:
        """Show that `done` of `total` are done, with `text` behind it."""
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
        self._stream.write(as_shown(text) + "\n")
        self._stream.flush()


def clock(seconds: float) -> str:
    """0:07, 12:07, 1:12:07."""
    minutes, rest = divmod(max(0, round(seconds)), 60)
    return f"{minutes}:{rest:02d}" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


def train_with_progress(config: RunConfig, host: Host, stages: Stages, again: str = "") -> int:
    """Train in the foreground with a progress bar; Ctrl-C saves and stops, a second one aborts.

    `again` is the command that continues it when it was stopped; by default `resume` with the run's id. Returns the
    exit code.
    """
    return _with_progress(lambda listen, stopped: run_training(config, host, listen, stopped, stages), again)


def resume_with_progress(folder: RunFolder, host: Host, steps: int | None = None, again: str = "") -> int:
    """Continue a run in the foreground, as `train_with_progress` does; `steps` are more than before."""

    def resume(listen: Listener, stopped: Callable[[], bool]) -> Result:
        folder.listener = listen
        return resume_training(folder, host, stopped, steps)

    return _with_progress(resume, again)


def _with_progress(run: Callable[[Listener, Callable[[], bool]], Result], again: str) -> int:
    stop = threading.Event()
    caught = signal.SIGINT

    def interrupted(number: int, _frame: Any) -> None:
        nonlocal caught
        if stop.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        stop.set()
        caught = signal.Signals(number)
        with suppress(OSError):  # the terminal may be gone
            print("\nStopping after this step and saving; Ctrl-C again aborts.", file=sys.stderr)

    before = [(one, signal.signal(one, interrupted)) for one in SIGNALS]
    bar = ProgressBar()
    try:
        result = run(bar.on_event, stop.is_set)
    except KeyboardInterrupt:
        bar.close()
        print(f"Aborted. To continue from the last saved state:  {again or own_command('resume')}", file=sys.stderr)
        return STOPPED_CODE + signal.SIGINT
    finally:
        for one, handler in before:
            signal.signal(one, handler)
        bar.close()
    _report(result, again)
    return STOPPED_CODE + caught if result.stopped else 0


def _report(result: Result, again: str) -> None:
    """Print how the run ended, and the command that continues it."""
    if result.path is None:
        print(
            "Stopped before the first step: there is nothing to save."
            if result.stopped
            else "Prepared; nothing was trained."
        )
    elif result.stopped:
        print(f"Stopped after {result.steps} steps. The LoRA so far is saved: {result.path}")
    else:
        print(f"Saved: {result.path}")
    print(f"Run folder: {result.folder}")
    if result.stopped:
        print(f"To continue:  {again or own_command('resume', result.folder.name)}")

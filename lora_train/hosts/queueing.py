"""Turns in the WebUI's job queue (`modules.call_queue.queue_lock`), which one caller holds at a time."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from lora_train.errors import Stopped

_LOOK_EVERY_S = 0.2
_CALLERS = 12
"""How many frames up a request's own function is searched for."""


class GenerationRefused(Exception):
    """Raised in a request for a picture while a training has the GPU; WebUIs show its text.

    `status_code` and `detail` are what the WebUI's API answers with.
    """

    status_code = 503

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.status_code = 503
        self.detail = reason


@contextmanager
def turn(lock: Any, stopped: Callable[[], bool]) -> Iterator[None]:
    """Hold `lock`. Raises Stopped when `stopped` says so while waiting for it."""
    if not _take(lock.acquire, lock.release, stopped):
        raise Stopped
    try:
        yield
    finally:
        lock.release()


def _take(acquire: Callable[[], Any], release: Callable[[], Any], given_up: Callable[[], bool]) -> bool:
    """Wait for a lock; False when `given_up` said so first.

    The lock is first come, first served, and acquiring it cannot be interrupted, so a thread waits for us.
    """
    got, left = threading.Event(), threading.Event()
    decide = threading.Lock()

    def wait() -> None:
        acquire()
        with decide:
            if left.is_set():
                release()
            else:
                got.set()

    threading.Thread(target=wait, name="lora-train waits for a turn", daemon=True).start()
    while not got.wait(_LOOK_EVERY_S):
        if given_up():
            with decide:
                if not got.is_set():
                    left.set()
                    return False
    return True


@contextmanager
def interruptible(lock: Any, interrupted: Callable[[], bool], reason: Callable[[], str]) -> Iterator[None]:
    """Within the block, callers waiting for `lock` get GenerationRefused when `interrupted` says so.

    All waiting callers poll `interrupted`, which returns True once for each time that a person interrupts.
    """
    count, counting, take = 0, threading.Lock(), lock.acquire

    def interruptions() -> int:
        nonlocal count
        with counting:
            count += interrupted()
            return count

    def acquire(self: Any, blocking: bool = True, *_args: Any, **_kwargs: Any) -> Any:
        if take(False):
            return True
        if not blocking:
            return False
        start = interruptions()
        if not _take(take, self.release, lambda: interruptions() != start):
            raise refusal(reason())
        return True

    with _lock_acts_as(lock, "InterruptibleLock", acquire):
        yield


@contextmanager
def refusing(lock: Any, reason: Callable[[], str]) -> Iterator[None]:
    """Within the block, new callers of `lock` get GenerationRefused."""

    def acquire(self: Any, *_args: Any, **_kwargs: Any) -> Any:
        raise refusal(reason())

    with _lock_acts_as(lock, "RefusingLock", acquire):
        yield


@contextmanager
def _lock_acts_as(lock: Any, name: str, acquire: Callable[..., Any]) -> Iterator[None]:
    """Within the block `lock` is acquired by `acquire`.

    The lock's class is replaced, because `with` looks up its methods there and others hold the object itself.
    """
    before = type(lock)
    try:
        lock.__class__ = type(name, (before,), {"acquire": acquire, "__enter__": acquire})
    except TypeError:  # a lock written in C: then callers wait
        yield
        return
    try:
        yield
    finally:
        lock.__class__ = before


def refusal(reason: str) -> GenerationRefused:
    """The error of a request for a picture that does not get its turn; its progress bar ends, too.

    The WebUI removes a task from its waiting list only when its turn comes: the page would show it as
    waiting forever. Only the request's own function knows which task it is.
    """
    try:
        from modules import progress
    except ImportError:  # a WebUI without such a list
        return GenerationRefused(reason)
    frame = sys._getframe(1)
    for _ in range(_CALLERS):
        for name in ("id_task", "task_id"):
            task = frame.f_locals.get(name)
            if isinstance(task, str) and task in getattr(progress, "pending_tasks", ()):
                progress.pending_tasks.pop(task, None)
                progress.finish_task(task)
        if frame.f_back is None:
            break
        frame = frame.f_back
    return GenerationRefused(reason)

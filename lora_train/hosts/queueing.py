"""A place in the WebUI's queue of work (`modules.call_queue.queue_lock`), which only one may have at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from lora_train.errors import Stopped

_LOOK_EVERY_S = 0.2


class GenerationRefused(Exception):
    """Raised in a request for a picture while a training has the GPU; WebUIs show it as it is.

    `status_code` and `detail` are what the WebUI's API answers with.
    """

    status_code = 503

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.status_code = 503
        self.detail = reason


@contextmanager
def turn(lock: Any, stopped: Callable[[], bool]) -> Iterator[None]:
    """Hold `lock`. Waiting for it can be given up: raises Stopped when `stopped` says so before.

    The lock is first come, first served, and taking it cannot be interrupted; so a thread waits in our place.
    """
    got, given_up = threading.Event(), threading.Event()
    decide = threading.Lock()

    def wait() -> None:
        lock.acquire()
        with decide:
            if given_up.is_set():
                lock.release()
            else:
                got.set()

    threading.Thread(target=wait, name="lora-train waits for its turn", daemon=True).start()
    while not got.wait(_LOOK_EVERY_S):
        if stopped():
            with decide:
                if not got.is_set():
                    given_up.set()
                    raise Stopped
    try:
        yield
    finally:
        lock.release()


@contextmanager
def refusing(lock: Any, reason: Callable[[], str]) -> Iterator[None]:
    """Within the block whoever newly asks for `lock` gets GenerationRefused.

    The lock's class is exchanged, since `with` looks up its methods there and others hold the object itself.
    """
    before = type(lock)

    def acquire(self: Any, *_args: Any, **_kwargs: Any) -> Any:
        raise GenerationRefused(reason())

    try:
        lock.__class__ = type("RefusingLock", (before,), {"acquire": acquire, "__enter__": acquire})
    except TypeError:  # a lock written in C: then others wait
        yield
        return
    try:
        yield
    finally:
        lock.__class__ = before

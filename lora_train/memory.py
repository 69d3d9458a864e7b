"""Freeing what a run held in memory, and recognising that there was too little of it."""

from __future__ import annotations

import gc
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from lora_train.errors import LoraTrainError

_WORDS = ("out of memory", "not enough memory", "can't allocate memory", "cannot allocate memory", "alloc_failed")
"""In the messages of torch for CUDA, MPS and the CPU (Windows, Linux), of cuBLAS and of cuDNN."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory was short, on the GPU or in the computer. Our own errors never do: they were
    already dealt with."""
    if isinstance(error, LoraTrainError):
        return False
    if isinstance(error, MemoryError):
        return True
    return isinstance(error, (RuntimeError, OSError)) and any(words in str(error).lower() for words in _WORDS)


def give_back() -> None:
    """Free everything that nothing refers to, on the GPU too.

    A trainer and its callbacks refer to each other, which only the cyclic collector resolves, and it counts
    objects, not gigabytes.
    """
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is None:
        return
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    mps = getattr(torch, "mps", None)
    if mps is not None and torch.backends.mps.is_available():
        mps.empty_cache()


def forget(error: BaseException | None) -> None:
    """Let go of what the functions that a caught error passed through refer to: their variables would stay, and what
    hooks and other inner functions were made with.

    The error loses its traceback: log it before."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:  # an error may come back as the context of its own cause
        seen.add(id(error))
        traceback.clear_frames(error.__traceback__)
        error.__traceback__ = None
        error = error.__cause__ or error.__context__


@contextmanager
def memory_given_back() -> Iterator[None]:
    """On leaving, also by an exception, everything that the block made and nothing refers to is freed."""
    try:
        yield
    finally:
        traceback.clear_frames(sys.exc_info()[2])
        give_back()

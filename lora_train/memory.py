"""Freeing what a run held in memory."""

from __future__ import annotations

import gc
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def memory_given_back() -> Iterator[None]:
    """On leaving, everything that the block made and nothing refers to is freed, on the GPU too.

    A trainer and its callbacks refer to each other, which only the cyclic collector resolves, and it counts
    objects, not gigabytes; an exception in flight keeps the variables of every function it passed through.
    """
    try:
        yield
    finally:
        traceback.clear_frames(sys.exc_info()[2])
        gc.collect()
        torch = sys.modules.get("torch")
        if torch is not None and torch.cuda.is_available():
            torch.cuda.empty_cache()

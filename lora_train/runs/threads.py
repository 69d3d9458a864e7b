"""The number of torch's threads is part of a run: sums in another order round differently."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from lora_train.runs.folder import RunFolder


@contextmanager
def same_threads(folder: RunFolder) -> Iterator[None]:
    """Within the block torch has as many threads as when the run's state was saved; a new run records their number."""
    import torch

    before = torch.get_num_threads()
    threads = folder.read().get("threads") if folder.saved_state is not None else None
    wanted = threads if isinstance(threads, int) and 0 < threads <= 1024 else before
    folder.update(threads=wanted)
    if wanted != before:
        torch.set_num_threads(wanted)
    try:
        yield
    finally:
        if wanted != before:
            torch.set_num_threads(before)

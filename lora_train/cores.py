"""How many threads torch gets in our own process, and how they wait: chosen before torch is loaded.

Measured on two cores with two busy neighbours, on the demo's training: torch's own choice (two threads that spin
while they wait) 0.9 pictures/s, two that sleep 12.5, one 18.4. Alone on a slow server, seconds per step of the demo:
one thread 0.72, two that sleep at once 0.90, two that spin for a moment first 0.50, two that keep spinning 0.59; beside
two busy neighbours one thread 1.15, two that spin 1.7 and more. So: as many threads as there are idle cores, which spin
for a moment before they sleep. Inside a host's process nothing is changed: its torch is loaded already, and its
settings are its own.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, MutableMapping
from pathlib import Path

WAITING, SPINS, THREADS = "OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "OMP_NUM_THREADS"
MOMENT = "20000"
"""Rounds that a thread of GNU's OpenMP spins: some tenths of a millisecond, a few of the demo's operations."""
STAT = Path("/proc/stat")
WATCHED_S = 0.15
"""How long the processor is watched."""


def settle_threads(environ: MutableMapping[str, str] = os.environ) -> None:
    """Set what OpenMP reads when torch is loaded, unless the person has set it or torch is there already."""
    if "torch" in sys.modules:
        return
    if WAITING not in environ:
        environ[WAITING] = "PASSIVE"
        environ.setdefault(SPINS, MOMENT)
    if THREADS not in environ:
        idle, cores = idle_cores(), usable_cores()
        if idle is not None and idle < cores - 0.5:
            environ[THREADS] = str(max(1, round(idle)))


def usable_cores() -> int:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def idle_cores(sleep: Callable[[float], None] = time.sleep, stat: Path = STAT) -> float | None:
    """How many cores are idle at the moment; None where the system does not say."""
    before = _idle_and_all(stat)
    if before is None:
        return None
    sleep(WATCHED_S)
    after = _idle_and_all(stat)
    if after is None or after[1] <= before[1]:
        return None
    return usable_cores() * (after[0] - before[0]) / (after[1] - before[1])


def _idle_and_all(stat: Path) -> tuple[int, int] | None:
    """Idle ticks and all ticks since the machine started, over all cores (proc(5))."""
    try:
        numbers = [int(field) for field in stat.read_text(encoding="ascii").splitlines()[0].split()[1:9]]
    except (OSError, ValueError, IndexError):
        return None
    return numbers[3] + numbers[4], sum(numbers)

"""Runs a program and writes down what each step of its optimizer cost: for all sides in the same way.

    python bench/child.py LOG COUNTED MODULE-OR-FILE ARGUMENTS ...

Every call of `torch.optim.Optimizer.step` ends a step, whoever makes it. LOG becomes a JSON file: seconds from one
step's end to the next, peak memory of the process and of the GPU. With COUNTED above 0 nothing is timed: the
operations and floating-point operations of that step (counted from 1) are. An operation is a call of an aten operator
that computes something, views and reads of one number left out: about what would be a kernel launch on a GPU.
"""

from __future__ import annotations

import atexit
import json
import resource
import runpy
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

FREE = {"detach", "alias", "empty", "empty_like", "empty_strided", "new_empty", "lift_fresh", "_local_scalar_dense"}
"""Operators that start no kernel although they are not views."""
READS = {"new_empty_strided", "set_", "resize_", "is_same_size", "_unsafe_view", "_reshape_alias", "result_type"}


class Steps:
    """What is known of the steps so far."""

    def __init__(self, counted: int) -> None:
        self.counted, self.ends = counted, list[float]()
        self.operations: Counter[str] = Counter()
        self.flops, self._modes = 0, list[Any]()

    def hook(self, *_: Any) -> None:
        """The end of a step."""
        import torch

        done = len(self.ends) + 1
        if torch.cuda.is_available() and done == 2:
            torch.cuda.synchronize()
        self.ends.append(time.perf_counter())
        if done == self.counted - 1:
            self._count()
        elif done == self.counted and self._modes:
            for mode in reversed(self._modes):
                mode.__exit__(None, None, None)
            self.flops = self._modes[1].get_total_flops()

    def _count(self) -> None:
        from torch.utils._python_dispatch import TorchDispatchMode
        from torch.utils.flop_counter import FlopCounterMode

        found = self.operations

        class Counting(TorchDispatchMode):
            def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
                name = func.__name__.partition(".")[0]
                if not func.is_view and name not in FREE and name not in READS:
                    found[name] += 1
                return func(*args, **(kwargs or {}))

        self._modes = [Counting(), FlopCounterMode(display=False)]
        for mode in self._modes:
            mode.__enter__()

    def report(self) -> dict[str, Any]:
        """What goes into the log."""
        import torch

        gpu = torch.cuda.is_available()
        if gpu and len(self.ends) > 2:
            torch.cuda.synchronize()
            self.ends[-1] = time.perf_counter()
        return {
            "seconds": [b - a for a, b in zip(self.ends[1:], self.ends[2:])],
            "rss": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            "gpu": torch.cuda.max_memory_allocated() if gpu else 0,
            "operations": dict(self.operations.most_common()),
            "flops": self.flops,
        }


def main() -> None:
    """Register the hook when torch is there, and run the program."""
    log, counted, program, *arguments = sys.argv[1:]
    steps = Steps(int(counted))
    sys.argv = [program, *arguments]
    hook_when_loaded(steps)
    atexit.register(lambda: Path(log).write_text(json.dumps(steps.report()), encoding="utf-8"))
    if program.endswith(".py"):
        sys.path[0] = str(Path(program).parent)
        runpy.run_path(program, run_name="__main__")
    else:
        sys.path[0] = ""
        runpy.run_module(program, run_name="__main__", alter_sys=True)


class _Later:
    """Registers the hook as soon as torch.optim was imported, so that a program may choose its threads before torch."""

    def __init__(self, steps: Steps) -> None:
        self._steps = steps

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        """Nothing is found here; `diffusers` is always imported after torch and before a training."""
        if name == "diffusers" and "torch" in sys.modules:
            sys.meta_path.remove(self)  # type: ignore[arg-type]
            from torch.optim.optimizer import register_optimizer_step_post_hook

            register_optimizer_step_post_hook(self._steps.hook)
        return None


def hook_when_loaded(steps: Steps) -> None:
    """See `_Later`."""
    sys.meta_path.insert(0, _Later(steps))  # type: ignore[arg-type]


if __name__ == "__main__":
    main()

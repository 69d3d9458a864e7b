"""Trains in processes that end at chosen moments as by `kill -9`, and resumes until the run is finished.

`python -m tests.runs.killing JOB` with a JSON file: `folder`, `config`, `modules` to import, and `moments`, shares of
the calls of `_CALLS` after which a process ends. Prints a JSON line for each moment. One process imports torch and
forks, and the latents are computed once: that takes no longer than the trainings themselves.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

import lora_train.atomic
from lora_train.config import RunConfig
from lora_train.hosts.standalone import StandaloneHost
from lora_train.models.opening import open_model
from lora_train.runs.execute import resume_training, run_training
from lora_train.runs.folder import RunFolder, list_runs
from lora_train.runs.stages import Stages
from lora_train.runs.writer import RunWriter
from lora_train.train.loop import Pace, Trainer

_CALLS: tuple[tuple[Any, str], ...] = (
    (lora_train.atomic.os, "replace"),
    (lora_train.atomic.os, "fsync"),
    (RunFolder, "event"),
    (RunFolder, "update"),
    (Trainer, "_batch"),
    (Trainer, "_update"),
    (Trainer, "write_state"),
    (RunWriter, "write_card"),
)
"""What is counted, twice each: before and after."""
EVERY = 2
"""A state is saved at every such step."""


def _counted(reached: Callable[[], None]) -> None:
    for place, name in _CALLS:
        real = getattr(place, name)

        def call(*given: Any, _real: Any = real, **named: Any) -> Any:
            reached()
            result = _real(*given, **named)
            reached()
            return result

        setattr(place, name, call)
    due = iter(range(1, 1_000_000))
    Pace.due = lambda self, minutes: next(due) % EVERY == 0  # type: ignore[method-assign]


def _child(work: Callable[[], None], moment: int) -> int:
    """Do `work` in a process that ends at this moment; -1: never. Returns the calls counted, or 0 if it was killed."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        count = 0

        def reached() -> None:
            nonlocal count
            count += 1
            if count == moment:
                os.kill(os.getpid(), signal.SIGKILL)

        code = 0
        try:
            _counted(reached)
            work()
        except BaseException:
            traceback.print_exc()
            code = 1
        os.write(write, str(count).encode())
        os._exit(code)
    os.close(write)
    _, status = os.waitpid(child, 0)
    said = os.read(read, 100)
    os.close(read)
    if os.WIFEXITED(status) and os.WEXITSTATUS(status):
        raise RuntimeError("a training failed")
    return int(said or b"0")


def main(job: Path) -> int:
    """See the module."""
    torch.set_num_threads(1)
    given = json.loads(job.read_text(encoding="utf-8"))
    for name in given["modules"]:
        importlib.import_module(name).add()
    config, folder = RunConfig.from_dict(given["config"]), Path(given["folder"])
    host = StandaloneHost(folder / "data")
    open_model(Path(config.model.path))  # imports what it needs, once for all children
    gc.collect()
    gc.freeze()
    _child(lambda: void(run_training(config, host, stages=Stages(train=False))), -1)  # the latents
    calls = _child(lambda: void(run_training(config, host)), -1)
    (folder / "out" / f"{config.save.output_name}.safetensors").rename(folder / "whole.safetensors")
    print(json.dumps({"calls": calls}), flush=True)
    for number, share in enumerate(given["moments"]):
        known = {run.id for run in list_runs(host.data_dir() / "runs")}
        moment = 1 + int(share * (calls - 1))
        finished = _child(lambda: void(run_training(config, host)), moment)
        runs = [run for run in list_runs(host.data_dir() / "runs") if run.id not in known]
        resumed = 0
        # killed a second time, at another moment of what is left, and then never again
        for again in (max(1, moment // 2), -1):
            if finished or not runs or runs[0].read()["state"] == "finished":
                break
            resumed += 1
            finished = _child(partial(resumed_once, runs[0], host), again)
        result = folder / "out" / f"{config.save.output_name}.safetensors"
        print(
            json.dumps(
                {"moment": moment, "resumed": resumed, "run": runs[0].id if runs else "", "there": result.exists()}
            )
        )
        if result.exists():
            result.rename(folder / f"{number}.safetensors")
        for path in (folder / "out").iterdir():
            path.unlink()
    return 0


def resumed_once(run: RunFolder, host: StandaloneHost) -> None:
    """Continue the run."""
    resume_training(run, host)


def void(_value: object) -> None:
    """Nothing."""


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))

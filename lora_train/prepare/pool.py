"""Several pictures at a time: in processes of our own, or in threads where no process can be started.

Not `multiprocessing`: its spawned processes import the host's main module again, which inside a WebUI starts half of
the WebUI, and on Windows never ends without a main guard; forked ones inherit its CUDA context and its locks. Ours are
`python -m lora_train.prepare.worker`, connected by pipes. A process that crashes on a file is replaced; only that file
is reported.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from lora_train.errors import LoraTrainError, Stopped
from lora_train.prepare.base import Plan
from lora_train.prepare.worker import Worker

FEW = 8
"""For this many pictures or fewer, starting processes is not worth it."""
_MODULE = "lora_train.prepare.worker"
_PACKAGES = Path(__file__).resolve().parents[2]


class CannotStart(Exception):
    """A process cannot be started here."""


class Doer(Protocol):
    """Does tasks, one after another."""

    def do(self, task: dict[str, Any]) -> dict[str, Any]:
        """Do a task (see Worker.do)."""
        ...

    def close(self) -> None:
        """Free what it holds."""
        ...


class Here(Worker):
    """Does tasks in the calling thread."""

    def close(self) -> None:
        """Nothing to free."""


class Process:
    """Does tasks in a process of our own."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._process = self._start()

    def do(self, task: dict[str, Any]) -> dict[str, Any]:
        """A file that crashes the process is reported as broken, and a new process is started."""
        answer = self._ask(task)
        if answer is None:
            self.close()
            self._process = self._start()
            broken = "reading it crashed the program; the file may be damaged, or memory may have run out"
            return {"content": task.get("content", ""), "broken": broken}
        if "error" in answer:
            raise LoraTrainError(**answer["error"])
        return answer

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()

    def _start(self) -> subprocess.Popen[str]:
        paths = [str(_PACKAGES), *filter(None, [os.environ.get("PYTHONPATH")])]
        one = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", _MODULE],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                encoding="ascii",
                env={**os.environ, **one, "PYTHONPATH": os.pathsep.join(paths)},
                creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
            )
        except (OSError, ValueError) as error:
            raise CannotStart(str(error)) from error
        if self._ask(self._plan.to_dict()) != {"ready": True}:
            self.close()
            raise CannotStart("the process does not answer")
        return self._process

    def _ask(self, question: dict[str, Any]) -> dict[str, Any] | None:
        """The answer to one line; None when the process has died."""
        assert self._process.stdin and self._process.stdout
        try:
            self._process.stdin.write(json.dumps(question) + "\n")
            self._process.stdin.flush()
            return dict(json.loads(self._process.stdout.readline()))
        except (OSError, ValueError):
            return None


def run_tasks(
    tasks: Sequence[dict[str, Any]], plan: Plan, processes: bool, stopped: Callable[[], bool]
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Do all tasks, several at a time. Yields (index of the task, answer) as they finish.

    Raises Stopped when `stopped` says so; tasks in progress are finished first. Raises LoraTrainError when a task does.
    """
    todo: queue.SimpleQueue[int] = queue.SimpleQueue()
    for number in range(len(tasks)):
        todo.put(number)
    done: queue.SimpleQueue[tuple[int, Any]] = queue.SimpleQueue()
    ending = threading.Event()

    def serve() -> None:
        try:
            doer = make_doer(plan, processes and len(tasks) > FEW)
            try:
                while not ending.is_set():
                    number = todo.get_nowait()
                    done.put((number, doer.do(tasks[number])))
            finally:
                doer.close()
        except queue.Empty:
            return
        except BaseException as error:  # passed to the waiting thread
            done.put((-1, error))

    threads = [threading.Thread(target=serve, daemon=True) for _ in range(min(count(plan), len(tasks)))]
    for thread in threads:
        thread.start()
    try:
        for _ in tasks:
            yield _next(done, stopped)
    finally:
        ending.set()
        for thread in threads:
            thread.join()


def make_doer(plan: Plan, processes: bool) -> Doer:
    """A process; or this one, where `processes` is false or none can be started."""
    if processes:
        try:
            return Process(plan)
        except CannotStart:
            pass
    return Here(plan)


def count(plan: Plan) -> int:
    """How many pictures are processed at a time."""
    if plan.options.workers:
        return plan.options.workers
    usable = getattr(os, "sched_getaffinity", None)
    return max(1, len(usable(0)) if usable else os.cpu_count() or 1)


def _next(done: queue.SimpleQueue[tuple[int, Any]], stopped: Callable[[], bool]) -> tuple[int, dict[str, Any]]:
    while True:
        if stopped():
            raise Stopped
        try:
            number, answer = done.get(timeout=0.2)
        except queue.Empty:
            continue
        if isinstance(answer, BaseException):
            raise answer
        return number, answer

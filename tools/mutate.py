"""Small faults put into the code one at a time, to see whether the tests notice: `python -m tools.mutate [NAME...]`.

`mutants.txt` beside this file lists them. Each is applied to a temporary copy of the project, where the tests that
concern it are run. Tests that fail (or never end) have killed it; a mutant that survives is a line that no test holds.
First the same tests are run without any fault: they must pass, or nothing that follows means anything.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
MUTANTS = Path(__file__).with_name("mutants.txt")
LIMIT_S = 120.0
"""How long the tests of one mutant may take, in seconds. A fault that makes them hang counts as killed."""
NOT_COPIED = (".*", "__pycache__", "build", "dist", "*.egg-info", "runs", "work", "lora-train-data")
"""What lies beside the code and is not part of it."""
SLOW = {
    "torch": (),
    "diffusers": ("AutoencoderKL", "UNet2DConditionModel", "DDPMScheduler"),
    "transformers": ("CLIPTextModel", "CLIPTextModelWithProjection", "CLIPTokenizer"),
    "fastapi.testclient": (),
    "gradio": (),
    "hypothesis": (),
}
"""Modules that take long to import, and those of their parts that are imported lazily."""
PASSED, FAILED = 0, 1
"""pytest's exit codes; any other means that it could not do its work (no such test, wrong usage)."""


_CONTEXT: Any = multiprocessing.get_context("fork" if hasattr(os, "fork") else "spawn")


@dataclass(frozen=True)
class Mutant:
    """One fault: in `file` the text `find`, which is there exactly once, becomes `put`; `tests` should notice."""

    name: str
    file: str
    find: str
    put: str
    tests: tuple[str, ...]

    def applied(self, text: str) -> str:
        """The file's text with the fault. Raises ValueError where the code has changed under the mutant."""
        count = text.count(self.find)
        if count != 1:
            raise ValueError(
                f"{self.name}: the text to replace is in {self.file} {count} times, not once: {self.find!r}"
            )
        return text.replace(self.find, self.put)


@dataclass(frozen=True)
class Outcome:
    """The fate of a mutant, and the test that noticed it."""

    mutant: Mutant
    killed: bool
    by: str
    seconds: float


def load(path: Path = MUTANTS) -> list[Mutant]:
    """The list of mutants; its first lines describe the format.

    Raises ValueError for a name that is there twice, and for a mutant without file or tests, or that changes nothing.
    """
    found: list[Mutant] = []
    file, name = "", ""
    shared: tuple[str, ...] = ()
    own: tuple[str, ...] = ()
    find: list[str] = []
    put: list[str] = []

    def done() -> None:
        if name:
            found.append(Mutant(name, file, "\n".join(find), "\n".join(put), own or shared))

    for line in [*path.read_text(encoding="utf-8").split("\n"), ""]:
        word, *rest = line.split() or [""]
        if line.startswith("-"):
            find.append(line[1:])
        elif line.startswith("+"):
            put.append(line[1:])
        elif word == "tests" and name:
            own = tuple(rest)
        elif word and not word.startswith("#"):
            done()
            name, own, find, put = "", (), [], []
            if word == "file":
                (file,) = rest
            elif word == "tests":
                shared = tuple(rest)
            else:
                name = word
    done()
    names = [mutant.name for mutant in found]
    wrong = {name for name in names if names.count(name) > 1}
    wrong |= {one.name for one in found if not (one.file and one.find and one.tests) or one.find == one.put}
    if wrong:
        raise ValueError(f"named twice, without file or tests, or changing nothing: {', '.join(sorted(wrong))}")
    return found


def chosen(mutants: Sequence[Mutant], names: Sequence[str]) -> list[Mutant]:
    """Those whose name, file or one of its folders is among `names`, which may have wildcards; all without any.

    Raises ValueError for a name that fits none.
    """
    if not names:
        return list(mutants)

    def fits(mutant: Mutant, name: str) -> bool:
        return fnmatchcase(mutant.name, name) or Path(mutant.file).is_relative_to(name)

    idle = [name for name in names if not any(fits(mutant, name) for mutant in mutants)]
    if idle:
        raise ValueError(f"no mutant is called {', '.join(idle)}")
    return [mutant for mutant in mutants if any(fits(mutant, name) for name in names)]


@contextmanager
def copied(root: Path) -> Iterator[Path]:
    """A temporary copy of the project, in which faults do no harm."""
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        copy = Path(folder) / "project"
        beside = shutil.ignore_patterns(*NOT_COPIED)
        shutil.copytree(
            root, copy, ignore=lambda at, names: beside(at, names) if Path(at) == root else (), symlinks=True
        )
        yield copy


def try_out(mutant: Mutant, copy: Path, limit_s: float) -> Outcome:
    """Put the fault into the copy, run its tests there, and take it out again."""
    path = copy / mutant.file
    before = path.read_text(encoding="utf-8")
    started = time.monotonic()
    try:
        _write(path, mutant.applied(before))
        passed, said = run_tests(copy, mutant.tests, limit_s)
    finally:
        _write(path, before)
    return Outcome(mutant, not passed, said, time.monotonic() - started)


def _write(path: Path, text: str) -> None:
    """Python tells stale bytecode by the file's second and size, which is not enough here."""
    path.write_text(text, encoding="utf-8")
    Path(importlib.util.cache_from_source(str(path))).unlink(missing_ok=True)


def run_tests(copy: Path, tests: Sequence[str], limit_s: float) -> tuple[bool, str]:
    """Whether the tests pass in the copy, and the first that did not. Raises RuntimeError where they cannot be run."""
    log = copy.with_name("log.txt")
    process = _CONTEXT.Process(target=_pytest, args=(copy, tests, log))
    process.start()
    process.join(limit_s)
    if process.is_alive():
        _end(process)
        return False, f"not finished after {limit_s:g} seconds"
    if process.exitcode == PASSED:
        return True, ""
    output = log.read_text(encoding="utf-8", errors="replace")
    lines = [line for line in output.splitlines() if line.startswith(("FAILED ", "ERROR "))]
    if process.exitcode != FAILED and not lines:
        raise RuntimeError(f"pytest cannot run {' '.join(tests)}:\n{output}")
    return False, lines[0].split(" - ")[0] if lines else "failed"


def _pytest(copy: Path, tests: Sequence[str], log: Path) -> None:
    """In a process of its own: the tests, with the copy in the place of this project."""
    if hasattr(os, "setsid"):
        os.setsid()  # processes that the tests start end with them
    with log.open("wb") as file:
        for descriptor in (1, 2):
            os.dup2(file.fileno(), descriptor)
    sys.stdout = sys.stderr = os.fdopen(1, "w", encoding="utf-8")
    os.chdir(copy)
    os.environ["PYTHONPATH"] = str(copy)
    sys.path[:] = [str(copy), *(path for path in sys.path if path and Path(path) != ROOT)]
    for name in [name for name in sys.modules if name.partition(".")[0] in ("lora_train", "tests", "tools")]:
        del sys.modules[name]
    import pytest

    sys.exit(pytest.main(["-x", "-q", "--no-header", "--tb=no", "-p", "no:cacheprovider", *tests]))


def _end(process: BaseProcess) -> None:
    if hasattr(os, "killpg") and process.pid is not None:
        os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.join()


def preload() -> None:
    """Import, once for all, what most tests need and takes seconds: each process of tests is a fork of this one."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    for name, attributes in SLOW.items():
        with suppress(ImportError, AttributeError):
            module = importlib.import_module(name)
            for attribute in attributes:
                getattr(module, attribute)


def main(arguments: Sequence[str] | None = None, root: Path = ROOT, path: Path = MUTANTS) -> int:
    """Run; returns 0 when every mutant was killed, 1 when some survived, 2 when that could not be found out."""
    parser = argparse.ArgumentParser(prog="python -m tools.mutate", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="mutants, files or folders (wildcards allowed); all")
    parser.add_argument("--list", action="store_true", help="show the mutants, run nothing")
    parser.add_argument("--limit", type=float, default=LIMIT_S, metavar="SECONDS", help="time for each (%(default)s)")
    parser.add_argument("--trust", action="store_true", help="do not run the tests without a fault first")
    options = parser.parse_args(arguments)
    try:
        mutants = chosen(load(path), options.names)
        for mutant in mutants:
            mutant.applied((root / mutant.file).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    if options.list:
        for mutant in mutants:
            print(f"{mutant.name:32} {mutant.file}")
        return 0
    if hasattr(os, "fork"):
        preload()
    with copied(root) as copy:
        return _run(mutants, copy, options.limit, options.trust)


def _run(mutants: Sequence[Mutant], copy: Path, limit_s: float, trust: bool) -> int:
    tests = list(dict.fromkeys(test for mutant in mutants for test in mutant.tests))
    if not trust:
        print(f"without a fault: {' '.join(tests)}", flush=True)
        passed, said = run_tests(copy, tests, limit_s * max(1, len(tests)))
        if not passed:
            print(f"the tests do not pass as they are: {said}", file=sys.stderr)
            return 2
    outcomes = []
    for mutant in mutants:
        outcome = try_out(mutant, copy, limit_s)
        outcomes.append(outcome)
        verdict = "killed  " if outcome.killed else "SURVIVED"
        print(f"{verdict} {mutant.name:32} {outcome.seconds:5.1f} s  {outcome.by}", flush=True)
    survivors = [outcome.mutant.name for outcome in outcomes if not outcome.killed]
    print(f"{len(outcomes) - len(survivors)} of {len(outcomes)} killed")
    if survivors:
        print(f"survived: {' '.join(survivors)}")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())

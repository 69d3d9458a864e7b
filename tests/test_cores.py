"""Threads are chosen by what the machine has free, before torch is loaded."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lora_train import cores


def _stat(path: Path, idle: int, busy: int) -> None:
    path.write_text(f"cpu  {busy} 0 0 {idle} 0 0 0 0 0 0\ncpu0 1 2 3 4\n")


@pytest.mark.parametrize(("idle", "busy", "share"), [(30, 0, 1.0), (15, 15, 0.5), (0, 30, 0.0)])
def test_idle_cores_are_counted_between_two_looks(tmp_path: Path, idle: int, busy: int, share: float) -> None:
    stat = tmp_path / "stat"
    _stat(stat, 1000, 500)
    found = cores.idle_cores(lambda _: _stat(stat, 1000 + idle, 500 + busy), stat)
    assert found == pytest.approx(share * cores.usable_cores())


def test_a_system_that_does_not_say_leaves_torch_its_choice(tmp_path: Path) -> None:
    assert cores.idle_cores(lambda _: None, tmp_path / "none") is None


@pytest.mark.parametrize(("idle", "threads"), [(4.0, None), (3.7, None), (2.2, "2"), (0.1, "1")])
def test_threads_are_what_is_free(monkeypatch: pytest.MonkeyPatch, idle: float, threads: str | None) -> None:
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    monkeypatch.setattr(cores, "usable_cores", lambda: 4)
    monkeypatch.setattr(cores, "idle_cores", lambda: idle)
    environ: dict[str, str] = {}
    cores.settle_threads(environ)
    assert environ.get(cores.THREADS) == threads
    assert environ[cores.WAITING] == "PASSIVE" and 0 < int(environ[cores.SPINS]) < 300_000


def test_what_the_person_set_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    environ = {cores.THREADS: "7", cores.WAITING: "ACTIVE"}
    cores.settle_threads(environ)
    assert environ == {cores.THREADS: "7", cores.WAITING: "ACTIVE"}


def test_a_process_that_has_torch_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", object())
    environ: dict[str, str] = {}
    cores.settle_threads(environ)
    assert environ == {}


def test_the_command_line_settles_them() -> None:
    """Torch in a process of ours has the threads that were chosen, and OpenMP was told to sleep."""
    code = (
        "import lora_train.cli as cli, lora_train.cores as cores, os\n"
        "cores.idle_cores = lambda: 0.0\n"
        "try: cli.main(['--version'])\n"
        "except SystemExit: pass\n"
        "import torch; print(torch.get_num_threads(), os.environ['OMP_WAIT_POLICY'])"
    )
    environ = {name: value for name, value in os.environ.items() if not name.startswith("OMP_")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environ, check=True)
    threads, waiting = done.stdout.split()[-2:]
    assert waiting == "PASSIVE"
    assert threads == "1"

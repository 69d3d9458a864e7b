"""start.py, as far as it goes without installing."""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from lora_train.console import STARTED_WITH

START = Path(__file__).parents[1] / "start.py"


def test_it_imports_the_standard_library_only() -> None:
    tree = ast.parse(START.read_text(encoding="utf-8"))
    names = {alias.name.split(".")[0] for n in ast.walk(tree) if isinstance(n, ast.Import) for alias in n.names}
    names |= {n.module.split(".")[0] for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.module}
    assert names <= sys.stdlib_module_names


def test_without_a_command_it_says_how() -> None:
    for arguments, code in (([], 2), (["nonsense"], 2), (["--help"], 0)):
        result = subprocess.run([sys.executable, str(START), *arguments], capture_output=True, text=True)
        assert result.returncode == code
        assert "start.py demo" in result.stdout + result.stderr


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """start.py in a folder of its own, with a pip that only says what it was asked for."""
    for name in ("start.py", "constraints.txt", "pyproject.toml"):
        shutil.copyfile(START.parent / name, tmp_path / name)
    return _start_in(tmp_path)


def _start_in(folder: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("start_copy", folder / "start.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def done(start: ModuleType, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What would have been installed, and run at last."""
    return _watched(start, monkeypatch)


def _watched(start: ModuleType, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    calls: list[list[str]] = []
    plain = subprocess.run

    def run(command: list[str], **options: Any) -> Any:
        if "install" in command:
            calls.extend([command] if start.VOCABULARY not in command else [])
            return subprocess.CompletedProcess(command, 0)
        return plain(command, **options)

    def make(place: Path, with_pip: bool, clear: bool) -> None:
        assert with_pip
        if clear:
            shutil.rmtree(place)
        _venv(place)
        calls.append(["made"])

    monkeypatch.setattr(start.subprocess, "run", run)
    monkeypatch.setattr(start, "run", lambda command, cwd=None: 0)
    monkeypatch.setattr(start.venv, "create", make)
    return calls


def _venv(place: Path, pip: bool = True) -> None:
    """As far as start.py looks: a Python that can import pip, or not."""
    python = place / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    python.parent.mkdir(parents=True)
    flags = "" if pip else "-S "
    python.write_text(f'#!/bin/sh\nexec {sys.executable} {flags}"$@"\n')
    python.chmod(0o755)


posix = pytest.mark.skipif(os.name == "nt", reason="the stand-in for Python is a shell script")


@posix
def test_it_installs_once(start: ModuleType, done: list[list[str]]) -> None:
    assert start.main(["ui"]) == 0 and [call[0] for call in done] == ["made", str(start.PYTHON)]
    done.clear()
    assert start.main(["ui"]) == 0 and done == []
    assert start.main(["test"]) == 0 and len(done) == 1


@posix
def test_clips_vocabulary_is_installed_without_what_its_package_needs(
    start: ModuleType, done: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checkpoint of one file needs it; torchvision and timm would be gigabytes."""
    commands: list[list[str]] = []
    plain, code = start.subprocess.run, 0

    def run(command: list[str], **options: Any) -> Any:
        if start.VOCABULARY in command:
            commands.append(command)
            return subprocess.CompletedProcess(command, code)
        return plain(command, **options)

    monkeypatch.setattr(start.subprocess, "run", run)
    assert start.main(["ui"]) == 0
    (vocabulary,) = commands
    assert "--no-deps" in vocabulary and str(start.ROOT / "constraints.txt") in vocabulary
    pinned = (START.parent / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert any(line.startswith("open_clip_torch==") for line in pinned)
    commands.clear()
    assert start.main(["ui"]) == 0 and not commands, "installed once"
    start.STAMP.unlink()
    code = 1
    assert start.main(["ui"]) == 0 and commands, "a package index without it stops nothing"


@posix
@pytest.mark.parametrize("broken", ["no pip", "no python", "another machine's", "a file"])
def test_a_broken_venv_is_made_again(
    start: ModuleType, done: list[list[str]], broken: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if broken == "no pip":
        _venv(start.VENV, pip=False)
    elif broken == "no python":
        (start.VENV / "lib").mkdir(parents=True)
    elif broken == "another machine's":
        _venv(start.VENV)
        start.PYTHON.write_text("#!/nowhere/python3\n")
    else:
        start.VENV.write_text("")
    assert start.main(["ui"]) == 0
    assert [call[0] for call in done] == ["made", str(start.PYTHON)] and start.works("import pip")
    assert "making it again" in capsys.readouterr().out or broken == "a file"


@posix
def test_one_that_broke_after_everything_was_installed(start: ModuleType, done: list[list[str]]) -> None:
    start.main(["ui"])
    done.clear()
    start.PYTHON.write_text("#!/nowhere/python3\n")
    assert start.main(["ui"]) == 0 and [call[0] for call in done] == ["made", str(start.PYTHON)]


@posix
def test_after_the_project_was_moved_it_installs_from_its_new_place(
    start: ModuleType, done: list[list[str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    start.main(["ui"])
    moved = tmp_path.with_name(f"{tmp_path.name}-moved")
    shutil.copytree(tmp_path, moved)
    again = _start_in(moved)
    calls = _watched(again, monkeypatch)
    assert again.main(["ui"]) == 0
    assert len(calls) == 1 and any(str(moved) in part for part in calls[0])


def test_a_python_that_cannot_make_one_says_what_to_do(
    start: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(*_given: Any, **_options: Any) -> None:
        raise subprocess.CalledProcessError(1, "ensurepip")

    monkeypatch.setattr(start.venv, "create", fails)
    assert start.main(["ui"]) == 1 and "install the package python3-venv" in capsys.readouterr().err


def test_no_room_is_told(
    start: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(*_given: Any, **_options: Any) -> None:
        raise OSError(28, "No space left on device", "/x/.venv")

    monkeypatch.setattr(start.venv, "create", fails)
    assert start.main(["ui"]) == 1 and "/x/.venv: No space left on device." in capsys.readouterr().err


@posix
def test_the_program_hears_how_it_was_started(
    start: ModuleType, done: list[list[str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """So that the commands which it prints can be copied as they are."""
    heard: list[str | None] = []

    def run(command: list[str], cwd: Path | None = None) -> int:
        heard.append(os.environ.get(start.STARTED_WITH))
        return 0

    monkeypatch.setattr(start, "run", run)
    monkeypatch.setattr(sys, "argv", ["../x y/start.py", "ui"])
    monkeypatch.delenv(start.STARTED_WITH, raising=False)
    assert start.main(["test"]) == 0, "printed commands of tests are not those of whoever started them"
    assert start.main(["ui"]) == 0
    none, words = heard
    assert none is None and words is not None
    python, script = json.loads(words)
    assert script == "../x y/start.py"
    answer = subprocess.run([python, "-c", "import sys; print(sys.executable)"], capture_output=True, text=True)
    assert answer.stdout.strip() == sys.executable
    assert start.STARTED_WITH == STARTED_WITH


@posix
def test_stopped_while_installing_it_says_the_command_that_goes_on(
    start: ModuleType, done: list[list[str]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def pressed(*_given: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(sys, "argv", ["start.py"])
    monkeypatch.setattr(start, "started_with", lambda: ["python3", "start.py"])
    with monkeypatch.context() as stopped:
        stopped.setattr(start, "install", pressed)
        assert start.main(["--torch-index", "https://x/cpu", "demo", "--out", "my out"]) == 130
    said = capsys.readouterr().err
    assert said.endswith("To continue:  python3 start.py --torch-index https://x/cpu demo --out 'my out'\n")
    assert start.main(["demo"]) == 0

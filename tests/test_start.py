"""start.py, as far as it goes without installing."""

from __future__ import annotations

import ast
import importlib.util
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

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


def test_clips_vocabulary_is_installed_without_what_its_package_needs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A checkpoint of one file needs it; torchvision and timm would be gigabytes."""
    spec = importlib.util.spec_from_file_location("start", START)
    assert spec is not None and spec.loader is not None
    start = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(start)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").touch()
    commands, code = [], 0
    monkeypatch.setattr(start, "VENV", tmp_path)
    monkeypatch.setattr(start, "PYTHON", tmp_path / "bin" / "python")
    monkeypatch.setattr(start, "STAMP", tmp_path / "stamp")
    monkeypatch.setattr(
        start.subprocess, "run", lambda command, **_: commands.append(command) or SimpleNamespace(returncode=code)
    )
    start.install("app", None)
    (vocabulary,) = (command for command in commands if "open_clip_torch" in command)
    assert "--no-deps" in vocabulary and str(START.parent / "constraints.txt") in vocabulary
    pinned = (START.parent / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert any(line.startswith("open_clip_torch==") for line in pinned)
    commands.clear()
    start.install("app", None)
    assert not commands, "installed once"
    (tmp_path / "stamp").unlink()
    code = 1
    start.install("app", None)
    assert commands and (tmp_path / "stamp").is_file(), "a package index without it stops nothing"

"""install.py: what it would install, and that nothing is installed where all is there."""

from __future__ import annotations

import importlib.util
import subprocess
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def install() -> ModuleType:
    spec = importlib.util.spec_from_file_location("extension_install", ROOT / "install.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("present", "wanted"),
    [
        ({"transformers": "4.30.2"}, ["diffusers==0.31.0"]),
        ({}, ["diffusers==0.31.0"]),
        ({"transformers": "4.46.1"}, ["diffusers>=0.31,<0.36"]),
        ({"transformers": "4.30.2", "diffusers": "0.29.2"}, []),
    ],
)
def test_only_what_is_absent_in_a_version_that_fits(
    install: ModuleType, present: dict[str, str], wanted: list[str]
) -> None:
    assert install.wanted(present) == wanted


def test_everything_installed_is_held_at_its_version(
    install: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: dict[str, Any] = {}

    def run(command: list[str], **_options: Any) -> Any:
        seen["constraints"] = Path(command[command.index("--constraint") + 1]).read_text()
        seen["command"] = command
        return SimpleNamespace(returncode=1, stderr="ERROR: no network")

    monkeypatch.setattr(install, "installed", lambda: {"transformers": "4.30.2", "torch": "2.1.2+cu121", "numpy": "1"})
    monkeypatch.setattr(subprocess, "run", run)
    install.main()
    assert seen["constraints"] == "numpy==1\ntransformers==4.30.2\n"
    assert seen["command"][-1] == "diffusers==0.31.0"
    assert "could not be installed: ERROR: no network" in capsys.readouterr().out


def test_it_sees_what_is_installed_and_does_nothing(
    install: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "diffusers" in install.installed()
    monkeypatch.setattr(subprocess, "run", lambda *a, **k: pytest.fail("pip was started"))
    install.main()
    assert capsys.readouterr().out == ""

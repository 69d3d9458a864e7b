"""install.py: what it would install, and that nothing is installed where all is there."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
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
        ({"transformers": "4.40.2"}, ["diffusers==0.31.0"]),
        ({"transformers": "4.41.0"}, ["diffusers>=0.31,<0.36"]),
        ({"transformers": "4.41"}, ["diffusers>=0.31,<0.36"]),
        ({"transformers": "5.0.0rc1"}, ["diffusers>=0.31,<0.36"]),
        ({"transformers": "4"}, ["diffusers==0.31.0"]),
        ({"transformers": "4.41.0.dev0"}, ["diffusers>=0.31,<0.36"]),
        ({"transformers": "unknown"}, ["diffusers==0.31.0"]),
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
        return SimpleNamespace(returncode=1, stderr="ERROR: no room on the disk")

    monkeypatch.setattr(install, "installed", lambda: {"transformers": "4.30.2", "torch": "2.1.2+cu121", "numpy": "1"})
    monkeypatch.setattr(subprocess, "run", run)
    install.main()
    assert seen["constraints"] == "numpy==1\ntorch==2.1.2+cu121\ntransformers==4.30.2\n"
    assert seen["command"][-1] == "diffusers==0.31.0"
    assert "could not be installed: ERROR: no room on the disk" in capsys.readouterr().out


def test_it_sees_what_is_installed_and_does_nothing(
    install: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "diffusers" in install.installed()
    monkeypatch.setattr(subprocess, "run", lambda *a, **k: pytest.fail("pip was started"))
    install.main()
    assert capsys.readouterr().out == ""


def _dist(site: Path, folder: str, metadata: str | None, files: dict[str, str] | None = None) -> None:
    place = site / folder
    place.mkdir(parents=True)
    if metadata is not None:
        (place / "METADATA").write_text(metadata)
    rows = [f"{name},,{len(text)}\n" for name, text in (files or {}).items()]
    if files is not None:
        (place / "RECORD").write_text("".join(rows))


def _named(name: str, version: str) -> str:
    return f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder of packages, the only one on the path."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.setattr("sys.path", [str(site)])
    return site


def test_what_a_failed_pip_left_behind_does_not_count(install: ModuleType, site: Path) -> None:
    _dist(site, "numpy-1.26.4.dist-info", _named("numpy", "1.26.4"))
    for left, version in (("~umpy-1.23.5", "1.23.5"), ("~~mpy-2.0.0", "2.0.0"), ("-umpy-1.22", "1.22")):
        _dist(site, f"{left}.dist-info", _named("numpy", version))
    _dist(site, "~iffusers-0.31.0.dist-info", _named("diffusers", "0.31.0"))
    assert install.installed() == {"numpy": "1.26.4"}
    assert install.wanted(install.installed()) == ["diffusers==0.31.0"]


def test_metadata_that_are_missing_or_say_nothing(install: ModuleType, site: Path) -> None:
    _dist(site, "broken-1.0.dist-info", None)
    _dist(site, "No_Version-1.5.dist-info", "Name: No.Version\n")
    _dist(site, "nothing.dist-info", "Metadata-Version: 2.1\n")
    _dist(site, "strange-1.dist-info", _named("strange", "unknown"))
    _dist(site, "torch-2.1.2+cu121.dist-info", _named("torch", "2.1.2+cu121"))
    found = install.installed()
    assert found == {
        "broken": "1.0",
        "no-version": "1.5",
        "nothing": "",
        "strange": "unknown",
        "torch": "2.1.2+cu121",
    }
    assert install.constraints_of(found) == ["broken==1.0", "no-version==1.5", "torch==2.1.2+cu121"]


@pytest.mark.parametrize("real", ["1.23.5", "1.26.4"])
def test_of_a_package_that_is_there_twice_the_one_that_is_imported(
    install: ModuleType, site: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, real: str
) -> None:
    other = "1.26.4" if real == "1.23.5" else "1.23.5"
    (site / "numpy.py").write_text("x" * 10)
    _dist(site, f"numpy-{real}.dist-info", _named("numpy", real), {"numpy.py": "x" * 10})
    _dist(site, f"numpy-{other}.dist-info", _named("numpy", other), {"numpy.py": "x" * 9, "gone.py": "y"})
    assert install.installed() == {"numpy": real}
    behind = tmp_path / "behind"
    _dist(behind, "numpy-2.0.0.dist-info", _named("numpy", "2.0.0"))
    monkeypatch.setattr("sys.path", [str(site), str(behind)])
    assert install.installed() == {"numpy": real}


def _pip_that(monkeypatch: pytest.MonkeyPatch, install: ModuleType, *answers: Any) -> list[dict[str, Any]]:
    """Exchange pip for something that answers, or raises, this in turn; returns what it was called with."""
    calls: list[dict[str, Any]] = []

    def run(command: list[str], **options: Any) -> Any:
        calls.append(options | {"command": command})
        answer = answers[len(calls) - 1]
        if isinstance(answer, Exception):
            raise answer
        return SimpleNamespace(returncode=int(bool(answer)), stderr=answer)

    monkeypatch.setattr(install, "installed", lambda: {"transformers": "4.30.2"})
    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(install.time, "sleep", lambda _seconds: None)
    return calls


UNREACHED = "WARNING: Retrying: NewConnectionError: [Errno -3] Temporary failure in name resolution\nERROR: No matching"


def test_it_tries_again_where_the_index_does_not_answer(
    install: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls = _pip_that(monkeypatch, install, UNREACHED, "")
    install.main()
    assert len(calls) == 2 and "could not" not in capsys.readouterr().out
    assert all(0 < call["timeout"] <= install.WHOLE_S for call in calls)
    assert calls[0]["stdin"] == subprocess.DEVNULL, "a question would hang the start"


def test_the_command_is_exactly_this(install: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of this Python, quiet, without questions; a host without a network waits 10 seconds for it, not minutes."""
    calls = _pip_that(monkeypatch, install, "")
    install.main()
    (call,) = calls
    before, (option, constraints, wanted) = call["command"][:-3], call["command"][-3:]
    assert before == [
        sys.executable, "-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check",
        "--retries", "0", "--timeout", "10",
    ]  # fmt: skip
    assert (option, Path(constraints).name, wanted) == ("--constraint", "constraints.txt", "diffusers==0.31.0")
    assert not Path(constraints).exists(), "it is left behind"
    assert call["encoding"] == "utf-8" and call["env"]["PYTHONIOENCODING"] == "utf-8"


def test_there_is_a_pause_before_it_tries_again_and_none_before_the_first(
    install: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, slept = _pip_that(monkeypatch, install, UNREACHED, UNREACHED), list[tuple[int, float]]()
    monkeypatch.setattr(install.time, "sleep", lambda seconds: slept.append((len(calls), seconds)))
    install.main()
    assert slept == [(1, 3)] and len(calls) == 2


@pytest.mark.parametrize(
    ("answers", "told"),
    [
        ((UNREACHED, UNREACHED), "the package index cannot be reached (ERROR: No matching)"),
        ((subprocess.TimeoutExpired("pip", 300),), "pip had not finished after 300 seconds"),
        (("ERROR: ResolutionImpossible",), "could not be installed: ERROR: ResolutionImpossible"),
        ((FileNotFoundError("no python"),), "FileNotFoundError: no python"),
    ],
)
def test_the_webui_starts_whatever_happens(
    install: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    answers: tuple[Any, ...],
    told: str,
) -> None:
    calls = _pip_that(monkeypatch, install, *answers)
    install.main()
    out = capsys.readouterr().out
    assert told in out and "the tab will say what is missing" in out and len(calls) == len(answers)


def test_what_pip_says_is_told_on_a_console_of_few_characters(tmp_path: Path) -> None:
    code = (
        "import install; install.installed = dict; "
        "install._pip = lambda *given: 'ERROR: C:/\\u30e6\\u30fc\\u30b6: \\udc81'; install.main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=os.environ | {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"},
        capture_output=True,
    )
    assert done.returncode == 0 and done.stderr == b""
    assert b"\\u30e6" in done.stdout and b"the tab will say" in done.stdout

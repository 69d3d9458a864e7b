"""What cannot be shown on a console is shown otherwise; it never ends a command."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lora_train.console import STARTED_WITH, as_typed, forgive_characters, own_command
from tests.conftest import draw_pictures

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
@pytest.mark.parametrize("entry", [["-m", "lora_train"], ["-c", "from lora_train.cli import main; exit(main())"]])
def test_captions_in_any_script_on_any_console(tmp_path: Path, encoding: str, entry: list[str]) -> None:
    folder = draw_pictures(tmp_path / "画像", 1)
    (folder / "picture-0.txt").write_text("女の子, schön", encoding="utf-8")
    done = subprocess.run(
        [sys.executable, *entry, "captions", str(folder), "frequency"],
        env=os.environ | {"PYTHONIOENCODING": encoding, "PYTHONUTF8": "0", "LORA_TRAIN_DATA": str(tmp_path / "data")},
        capture_output=True,
        cwd=ROOT,
    )
    assert done.returncode == 0 and b"Traceback" not in done.stderr, done.stderr
    assert b"\\u5973\\u306e\\u5b50" in done.stdout


def test_start_py_on_a_console_of_few_characters(tmp_path: Path) -> None:
    folder = tmp_path / "日本"
    folder.mkdir()
    for name in ("start.py", "constraints.txt", "pyproject.toml"):
        (folder / name).write_bytes((ROOT / name).read_bytes())
    (folder / ".venv").symlink_to("/dev/null/nowhere")
    code = "import start, venv, sys; venv.create = None; start.works = lambda c: False; sys.exit(start.main(['ui']))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "PYTHONPATH": str(folder)},
        capture_output=True,
        cwd=folder,
    )
    assert b"UnicodeEncodeError" not in done.stderr and b"\\u65e5\\u672c" in done.stdout


def test_streams_of_every_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="cp1252"))
    monkeypatch.setattr(sys, "stderr", None)  # a program without a console
    forgive_characters()
    print("schön 女 \udc81", flush=True)
    assert raw.getvalue().rstrip() == "schön \\u5973 \\udc81".encode("cp1252")
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    forgive_characters()


WORDS = [
    "demo",
    "--out",
    "my pictures/out",
    "sks on blue <lora:mascot:1>",
    "it's",
    'a "b" $HOME `c` !d',
    "",
    "*",
    "été",
    "~",
]


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash on this machine")
def test_a_printed_command_gives_bash_the_very_words() -> None:
    show = [sys.executable, "-c", "import json, sys; print(json.dumps(sys.argv[1:]))"]
    done = subprocess.run(["bash", "-c", as_typed([*show, *WORDS], windows=False)], capture_output=True, check=True)
    assert json.loads(done.stdout) == WORDS


def test_a_printed_command_is_the_same_in_bash_and_cmd_where_both_have_it() -> None:
    words = ["python3", "start.py", "generate", "sks on blue <lora:mascot:1>", "--output", "a & b.png"]
    typed = 'python3 start.py generate "sks on blue <lora:mascot:1>" --output "a & b.png"'
    assert as_typed(words, windows=True) == as_typed(words, windows=False) == typed
    windows = as_typed(["py", "C:\\Program Files\\x\\start.py", "C:\\x\\y.py"], windows=True)
    assert windows == 'py "C:\\Program Files\\x\\start.py" C:\\x\\y.py'


def test_a_printed_command_starts_this_program_as_it_was_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(STARTED_WITH, raising=False)
    monkeypatch.setattr(sys, "argv", ["pytest"])
    assert own_command("ui") == as_typed([sys.executable, "-m", "lora_train", "ui"])
    monkeypatch.setattr(sys, "argv", [str(Path("/somewhere/bin/lora-train"))])
    assert own_command("ui") == as_typed([str(Path("/somewhere/bin/lora-train")), "ui"])
    monkeypatch.setattr(shutil, "which", lambda name: "/somewhere/bin/lora-train")
    assert own_command("ui") == "lora-train ui"
    monkeypatch.setenv(STARTED_WITH, '["python3", "../LoRA Train/start.py"]')
    assert own_command("ui") == 'python3 "../LoRA Train/start.py" ui'
    monkeypatch.setenv(STARTED_WITH, "nonsense")
    assert own_command("ui") == "lora-train ui"

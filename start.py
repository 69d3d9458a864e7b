#!/usr/bin/env python3
"""Start LoRA Train with nothing installed but Python: makes .venv, installs, and runs.

    python3 start.py demo              train the mascot's LoRA and show it
    python3 start.py ui                open the page
    python3 start.py train ...         train from the command line (options: --help)
    python3 start.py prepare ...       prepare pictures: crop, check, reject
    python3 start.py captions ...      count tags, change all captions, undo
    python3 start.py file ...          inspect LoRA files, convert, resize, merge, extract
    python3 start.py dataset ...       import and export datasets of other tools
    python3 start.py resume            continue a training that was stopped
    python3 start.py generate ...      make pictures
    python3 start.py test [...]        run the tests (further arguments go to pytest)

Before the command: --torch-index URL installs torch from that package index, for example the CPU or
a CUDA index of pytorch.org; without it pip's default is used.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import venv
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
PYTHON = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
ALL_CORES = ("-n", "auto", "--dist", "loadfile")  # the whole suite; the tests of a file share what they have made
VOCABULARY = "open_clip_torch"  # its wheel holds CLIP's vocabulary, which single-file checkpoints do not contain
STAMP = VENV / "lora-train-installed"
STARTED_WITH = "LORA_TRAIN_STARTED_WITH"  # see lora_train/console.py
COMMANDS = ("demo", "ui", "train", "prepare", "captions", "dataset", "file", "resume", "generate", "test")


def main(arguments: list[str]) -> int:
    """Install what is missing, then run the command."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            with suppress(OSError, ValueError):
                reconfigure(errors="backslashreplace")  # a console with few characters is no reason to fail
    if sys.version_info < (3, 10):  # noqa: UP036 - this file is what an older Python meets first
        print("LoRA Train needs Python 3.10 or newer; this is " + sys.version.split()[0], file=sys.stderr)
        return 2
    index = None
    if arguments[:1] == ["--torch-index"] and len(arguments) > 1:
        index, arguments = arguments[1], arguments[2:]
    if not arguments or arguments[0] not in COMMANDS:
        print(__doc__, file=sys.stderr if arguments and arguments[0] not in ("-h", "--help") else sys.stdout)
        return 0 if arguments and arguments[0] in ("-h", "--help") else 2
    command, rest = arguments[0], arguments[1:]
    words = started_with()
    again = typed([*words, *(["--torch-index", index] if index else []), *arguments])
    try:
        install("test" if command == "test" else "app", index)
    except subprocess.CalledProcessError as error:
        print(f"Installing failed (exit code {error.returncode}); the lines above say why.", file=sys.stderr)
        return 1
    except NoVenv as error:
        print(error, file=sys.stderr)
        return 1
    except OSError as error:
        print(f"Installing failed: {error.filename or VENV}: {error.strerror or error}.", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"\nStopped while installing. To continue:  {again}", file=sys.stderr)
        return 130
    if command == "test":
        return run([str(PYTHON), "-m", "pytest", *(rest or ALL_CORES)], cwd=ROOT)
    os.environ[STARTED_WITH] = json.dumps(words)  # for the commands that it prints
    return run([str(PYTHON), "-m", "lora_train", command, *rest])


class NoVenv(Exception):
    """This Python cannot make a virtual environment; the text says what to do."""


def install(extra: str, torch_index: str | None) -> None:
    """Make .venv and install the package with `extra`, unless that was done here, for exactly these versions."""
    wanted = fingerprint()
    try:
        done = STAMP.read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError):
        done = []
    if done[:1] == [wanted] and extra in done[1:] and works(""):
        return
    if not works("import pip"):
        make_venv()
    pip = [str(PYTHON), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    constraints = ["--constraint", str(ROOT / "constraints.txt")]
    print("Installing; the first time this takes some minutes ...", flush=True)
    if torch_index:
        subprocess.run([*pip, *constraints, "--index-url", torch_index, "torch"], check=True)
    subprocess.run([*pip, *constraints, "--editable", f"{ROOT}[app,{extra}]"], check=True)
    # nothing in it is imported, so what it needs (torchvision, timm) is not installed
    if subprocess.run([*pip, *constraints, "--no-deps", VOCABULARY], check=False).returncode:
        print("CLIP's vocabulary could not be installed; everything else works without it.", file=sys.stderr)
    before = set(done[1:]) if done[:1] == [wanted] else set()
    STAMP.write_text(" ".join([wanted, *sorted(before | {extra, "app"})]), encoding="utf-8")


def works(code: str) -> bool:
    """Whether the Python of .venv can run `code`: it may be gone with the one it was made from, too old, or half
    made."""
    check = f"import sys; assert sys.version_info >= (3, 10)\n{code}"
    try:
        done = subprocess.run([str(PYTHON), "-c", check], capture_output=True, check=False)
    except OSError:
        return False
    return done.returncode == 0


def make_venv() -> None:
    """Make .venv, in place of a broken one. Raises NoVenv, OSError."""
    print(f"{VENV} is broken; making it again ..." if VENV.exists() else f"Making {VENV} ...", flush=True)
    if VENV.is_file() or (VENV.is_symlink() and not VENV.exists()):
        VENV.unlink()
    try:
        venv.create(VENV, with_pip=True, clear=VENV.exists())
    except subprocess.CalledProcessError as error:  # it has no message of its own
        raise NoVenv(
            f"This Python ({sys.executable}) cannot make a virtual environment with pip in it. On Debian and Ubuntu "
            "install the package python3-venv; elsewhere use Python from python.org."
        ) from error
    if not works("import pip"):
        raise NoVenv(f"{VENV} was made but does not work. Remove it, or start with another Python.")


def fingerprint() -> str:
    """Changes when the wanted versions do, and when the project is moved: .venv names its folder."""
    digest = hashlib.sha256(f"{sys.version}\n{ROOT}".encode("utf-8", "surrogateescape"))
    for name in ("constraints.txt", "pyproject.toml"):
        digest.update((ROOT / name).read_bytes())
    return digest.hexdigest()[:16]


def started_with() -> list[str]:
    """The words that start this file again from the same folder, with the same Python by its shortest name."""
    for name in ("python", "py", "python3") if os.name == "nt" else ("python3", "python"):
        if shutil.which(name):
            with suppress(OSError, subprocess.SubprocessError):
                code = "import sys; print(sys.executable)"
                answer = subprocess.run([name, "-c", code], capture_output=True, text=True, timeout=10, check=False)
                if answer.stdout.strip() == sys.executable:
                    return [name, sys.argv[0]]
    return [sys.executable, sys.argv[0]]


def typed(words: list[str]) -> str:
    """Words as a command line, for bash and for Windows' cmd."""
    if os.name == "nt":
        return " ".join(word if re.fullmatch(r"[\w.:\\/=@+,-]+", word) else f'"{word}"' for word in words)
    return " ".join(word if re.fullmatch(r"[\w./:=@+,-]+", word) else shlex.quote(word) for word in words)


def run(command: list[str], cwd: Path | None = None) -> int:
    """Run a command in the foreground; Ctrl-C goes to it, and its exit code is ours."""
    process = subprocess.Popen(command, cwd=cwd)
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:
            continue  # the child has received it too and ends in its own way


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

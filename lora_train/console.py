"""Output to consoles that have few characters, and commands printed for people to copy."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

STARTED_WITH = "LORA_TRAIN_STARTED_WITH"
"""The variable in which start.py says how it was started: a JSON list of words such as ["python3", "start.py"]."""

_PLAIN = re.compile(r"[\w./:=@+,-]+")
_SAME_IN_QUOTES = re.compile(r"""[^"$`\\!%^]*""")
"""What double quotes leave unchanged in bash, in PowerShell and in Windows' cmd alike."""


def forgive_characters() -> None:
    """From now on print what the console cannot show as `\\u...` instead of ending in UnicodeEncodeError.

    A Windows console has one code page, a terminal without a locale has ASCII, and a name from the file system may
    not be valid text at all.
    """
    for stream in (sys.stdout, sys.stderr):  # there may be none (pythonw)
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            with suppress(OSError, ValueError):  # closed
                reconfigure(errors="backslashreplace")


def own_command(*arguments: str) -> str:
    """The command line that runs this program with `arguments`, started as it was this time, ready to be copied."""
    return as_typed([*_started_with(os.environ), *arguments])


def as_typed(words: Sequence[str], windows: bool = os.name == "nt") -> str:
    """Words as a command line for the system's own shell, in double quotes where needed, as bash and cmd both read."""
    return " ".join(_quoted(word, windows) for word in words)


def _quoted(word: str, windows: bool) -> str:
    if _PLAIN.fullmatch(word.replace("\\", "/") if windows else word):
        return word
    if _SAME_IN_QUOTES.fullmatch(word.replace("\\", "/") if windows else word) and not word.endswith("\\"):
        return f'"{word}"'
    return subprocess.list2cmdline([word]) if windows else shlex.quote(word)


def _started_with(environ: Mapping[str, str]) -> list[str]:
    """The words before our own arguments: start.py's, the installed program's, or Python's."""
    try:
        words = json.loads(environ.get(STARTED_WITH, ""))
    except ValueError:
        words = None
    if isinstance(words, list) and words and all(isinstance(word, str) for word in words):
        return words
    program = Path(sys.argv[0])
    if program.stem == "lora-train":
        found = shutil.which(program.stem)
        same = found is not None and Path(found).absolute().parent == program.absolute().parent
        return [program.stem if same else str(program)]
    return [sys.executable or "python3", "-m", "lora_train"]

"""Regular expressions that a person wrote, with a time limit.

Python's `re` backtracks: `(a+)+$` on thirty letters takes hours, holds the interpreter's lock meanwhile, and
only ending the process stops it. So what is more than plain text is tried in a process of its own, which
is ended when it takes too long. Not `multiprocessing` (see `data.prepare.pool`): the worker is a script of its own that
imports the standard library alone, and starts in about 30 ms.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from lora_train import pattern_worker

LONGEST = 1000
"""Most characters of a pattern, and of its replacement."""
SECONDS = 5.0
"""How long a pattern may take, with a second more for each million characters that it is tried on."""

# searched in linear time: literal characters, between ^ and $
_PLAIN = re.compile(r"\^?(?:[^\\^$.|?*+(){}\[\]]|\\[^a-zA-Z0-9])*\$?")


class PatternError(ValueError):
    """A pattern that is faulty, too long or too slow: the text continues "the pattern ..."; `fix` says what to do."""

    fix = ""


class TooSlow(PatternError):
    """The pattern takes too long."""

    fix = "Write it without a repetition inside a repetition, such as (a+)+."

    def __init__(self) -> None:
        super().__init__("takes too long")


class Faulty(PatternError):
    """It is not a regular expression, or the replacement does not fit it."""

    fix = "Put a backslash before characters that are meant literally: \\( \\) \\. \\* \\+ \\?"

    def __init__(self, why: str) -> None:
        super().__init__(f"is faulty ({why})")
        self.why = why


def check_pattern(pattern: str, by: str | None = None) -> None:
    """Raise PatternError unless this is a regular expression, and `by` a replacement that fits it."""
    faulty = _fault(pattern, by)
    if faulty:
        raise Faulty(faulty)


def search(pattern: str, texts: Sequence[str]) -> frozenset[str]:
    """Those of `texts` that `pattern` is found in. Raises PatternError."""
    found = _asked("search", pattern, texts=list(texts))
    return frozenset(texts[number] for number in found)


def substitute(pattern: str, by: str, texts: Sequence[str]) -> list[str]:
    """`texts` with what `pattern` finds replaced by `by`, which may refer to its groups. Raises PatternError."""
    made: list[str] = _asked("substitute", pattern, by=by, texts=list(texts))
    return made


@lru_cache(maxsize=256)
def _fault(pattern: str, by: str | None) -> str:
    """What is faulty; "" for nothing. Compiling alone can take minutes, so that is not done here either."""
    try:
        _asked("check", pattern, by=by)
    except Faulty as error:
        return error.why
    return ""


def _asked(ask: str, pattern: str, texts: Sequence[str] | None = None, by: str | None = None) -> Any:
    """The worker's answer; worked out here where the pattern is plain text. Raises PatternError."""
    if max(len(pattern), len(by or "")) > LONGEST:
        raise PatternError(f"or its replacement is longer than {LONGEST} characters")
    question = {"ask": ask, "pattern": pattern, "texts": texts, "by": by}
    question = {name: value for name, value in question.items() if value is not None}
    if _PLAIN.fullmatch(pattern) and "\\" not in (by or ""):
        answer = pattern_worker.answer(question)
    else:
        answer = _elsewhere(question, SECONDS + sum(map(len, texts or ())) / 1e6)
    if "faulty" in answer:
        raise Faulty(answer["faulty"])
    return answer["answer"]


def _elsewhere(question: dict[str, Any], seconds: float) -> dict[str, Any]:
    """The answer of a process of its own."""
    # isolated, without site: the worker needs neither the host's paths nor its packages, and starts faster
    command = [sys.executable, "-I", "-S", pattern_worker.__file__, str(2 * seconds)]
    try:
        done = subprocess.run(
            command,
            input=json.dumps(question),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            encoding="ascii",
            timeout=seconds,
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
        )
        return dict(json.loads(done.stdout))
    except subprocess.TimeoutExpired as error:
        raise TooSlow from error
    except (OSError, ValueError) as error:
        raise PatternError(f"cannot be tried: no process for it can be started here ({error})") from error

"""Tries regular expressions on texts: a question as JSON on standard input, the answer as JSON on standard output.

Run by path in a process of its own (`patterns.py` says why), so it imports nothing but the standard library.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any

GROWTH = 10_000_000
"""At most this many characters may be added in all."""
TOO_LONG = f"it would add more than {GROWTH:,} characters"
MEMORY = 2 << 30
"""In bytes, where the system can limit it."""


class Faulty(ValueError):
    """The pattern, or what it is replaced by, is faulty; the text says how."""


def check(pattern: str, by: str | None = None) -> re.Pattern[str]:
    """The compiled pattern. Raises Faulty, also when `by` refers to a group that it does not have."""
    try:
        compiled = re.compile(pattern)
        if by is not None:
            _check_groups(compiled, by)
    except (re.error, IndexError, RecursionError, OverflowError) as error:
        raise Faulty(str(error) or type(error).__name__) from error
    return compiled


def search(pattern: str, texts: Sequence[str]) -> list[int]:
    """The indices of the texts that the pattern is found in. Raises Faulty."""
    compiled = check(pattern)
    return [number for number, text in enumerate(texts) if compiled.search(text)]


def substitute(pattern: str, by: str, texts: Sequence[str]) -> list[str]:
    """The texts with what `pattern` finds replaced by `by`. Raises Faulty, also when they would grow beyond bounds."""
    compiled = check(pattern, by)
    made, room = [], GROWTH
    for text in texts:
        if "\\" not in by and (compiled.subn("", text)[1] * len(by)) > room + len(text):
            raise Faulty(TOO_LONG)
        made.append(compiled.sub(by, text))
        room -= max(0, len(made[-1]) - len(text))
        if room < 0:
            raise Faulty(TOO_LONG)
    return made


def answer(question: dict[str, Any]) -> dict[str, Any]:
    """What a question asks for, by its "ask": check, search or substitute; or {"faulty": why}."""
    asks: dict[str, Callable[..., Any]] = {"check": check, "search": search, "substitute": substitute}
    asked = asks[question.pop("ask")]
    try:
        made = asked(**question)
    except Faulty as error:
        return {"faulty": str(error)}
    except MemoryError:
        return {"faulty": "it needs too much memory"}
    return {"answer": None if isinstance(made, re.Pattern) else made}


def _check_groups(compiled: re.Pattern[str], by: str) -> None:
    """Raise re.error or IndexError when `by` refers to a group that the pattern does not have."""
    # every group has matched (the empty text): only then does expand check all of `by`
    names = {number: name for name, number in compiled.groupindex.items()}
    named = (names.get(number, "") for number in range(1, compiled.groups + 1))
    match = re.match("".join(f"(?P<{name}>)" if name else "()" for name in named), "")
    assert match
    match.expand(by)


def main() -> None:
    """Answer one question. The process ends by itself after the seconds given as its argument, even orphaned."""
    import faulthandler
    import os

    # from a thread in C: while `re` searches, no other Python code runs
    faulthandler.dump_traceback_later(float(sys.argv[1]), exit=True)
    if hasattr(os, "nice"):
        os.nice(10)
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    except (ImportError, OSError, ValueError):
        pass
    json.dump(answer(json.load(sys.stdin)), sys.stdout)


if __name__ == "__main__":
    main()

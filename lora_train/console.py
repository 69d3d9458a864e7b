"""What is printed, on consoles that have few characters."""

from __future__ import annotations

import sys
from contextlib import suppress


def forgive_characters() -> None:
    """From now on print what the console cannot show as `\\u...`, in place of ending in UnicodeEncodeError.

    A Windows console has one code page, a terminal without a locale has ASCII, and a name from the file system may
    be no text at all.
    """
    for stream in (sys.stdout, sys.stderr):  # there may be none at all (pythonw)
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            with suppress(OSError, ValueError):  # closed
                reconfigure(errors="backslashreplace")

"""Text that comes from files (names, metadata, keys), made safe to show on a terminal or a page."""

from __future__ import annotations

import re

_HIDDEN = re.compile(
    "["
    "\x00-\x08\x0b-\x1f\x7f-\x9f"  # control characters, among them escape and the 8-bit CSI; not tab and newline
    "\u061c\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff"  # change the writing direction, or are invisible
    "\u2028\u2029"  # line ends of their own
    "\ud800-\udfff"  # lone surrogates, which no output can encode
    "]"
)


def as_shown(text: str, lines: bool = True) -> str:
    r"""`text` with every character that acts instead of being seen written as `\u202e`, as JSON would.

    A file's name or metadata may hold terminal escapes (which move the cursor, or make the terminal answer), overrides
    of the writing direction (which make "gpj.exe" of "exe.jpg") and lone surrogates (which cannot be printed). With
    `lines` False newlines and tabs are escaped too, so that the text stays on its line.
    """
    safe = _HIDDEN.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
    return safe if lines else safe.replace("\n", "\\n").replace("\t", "\\t")


def encodable(text: str) -> str:
    """`text` without lone surrogates, which UTF-8 cannot hold: each becomes the replacement character."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")

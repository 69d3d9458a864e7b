"""What a file is by its first bytes, where it is not what its name says."""

from __future__ import annotations

import json
import re
import struct
import zipfile
from dataclasses import dataclass
from pathlib import Path

_LOOK = 1024
"""How many bytes are read."""
AGAIN = "Download it again."


@dataclass(frozen=True)
class Content:
    """A kind of content: what it is called in a sentence, and what to do."""

    what: str
    fix: str
    pickle: bool = False
    """Whether it is one of torch's own files."""


_SIGN_IN = "Open the download's address in a browser (sign in where the site asks for it) and download the file itself."
_LFS = Content(
    "a pointer of Git LFS",
    "Run `git lfs pull` in the repository it came from, or download it with the site's download button.",
)
_PAGE = Content("a web page", _SIGN_IN)
_UNPACK = "Unpack it, and give the file that is in it."
_ZIP = Content("a zip archive", _UNPACK)
_TORCH = Content("a PyTorch file (.pt, .ckpt) under another name", "Rename it to end in .pt.", pickle=True)

_SIGNATURES: tuple[tuple[bytes, Content], ...] = (
    (b"version https://git-lfs.github.com/", _LFS),
    (b"\x1f\x8b", Content("a gzip archive", _UNPACK)),
    (b"7z\xbc\xaf\x27\x1c", Content("a 7z archive", _UNPACK)),
    (b"Rar!\x1a\x07", Content("a RAR archive", _UNPACK)),
    (b"BZh", Content("a bzip2 archive", _UNPACK)),
    (b"\xfd7zXZ\x00", Content("an xz archive", _UNPACK)),
    (b"\x28\xb5\x2f\xfd", Content("a zstd archive", _UNPACK)),
    (b"GGUF", Content("a GGUF file (for llama.cpp and its relatives)", "Download the .safetensors file.")),
    (b"\x89PNG\r\n", Content("a PNG picture", "Give the .safetensors file beside it.")),
    (b"\xff\xd8\xff", Content("a JPEG picture", "Give the .safetensors file beside it.")),
    (b"GIF8", Content("a GIF picture", "Give the .safetensors file beside it.")),
    (b"RIFF", Content("a picture or a sound (RIFF)", "Give the .safetensors file beside it.")),
    (b"%PDF", Content("a PDF document", AGAIN)),
    (b"MZ", Content("a Windows program", "Do not run it. Download the .safetensors file from elsewhere.")),
    (b"\x7fELF", Content("a program", "Do not run it. Download the .safetensors file from elsewhere.")),
    (b"\x89HDF\r\n", Content("an HDF5 file (Keras)", "Give a .safetensors file.")),
    (b"d8:announce", Content("a torrent", "Download it with a torrent program.")),
)
_PICKLES = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
_MARKUP = re.compile(rb"\s*(?:\xef\xbb\xbf)?\s*<(?:!doctype html|html|head|body|script|meta|!--)", re.IGNORECASE)
_XML = re.compile(rb"\s*(?:\xef\xbb\xbf)?\s*<[?a-z!]", re.IGNORECASE)


def content_of(path: Path) -> Content | None:
    """What the file at `path` is, where that can be recognised; None for what is unknown, and for a safetensors file.

    Raises OSError when it cannot be read. A safetensors file that was cut off counts as one.
    """
    with path.open("rb") as file:
        start = file.read(_LOOK)
    if not start:
        return Content("an empty file", "Its download failed, or the disk was full. " + AGAIN)
    for signature, content in _SIGNATURES:
        if start.startswith(signature):
            return content
    if start.startswith(b"PK\x03\x04"):
        return _zip(path)
    if start.startswith(_PICKLES):
        return _TORCH
    if not start.strip(b"\0"):
        return Content("a file of zeros, as an unfinished download leaves it", AGAIN)
    return None if _is_safetensors(start) else _text(path, start)


def is_safetensors(path: Path) -> bool:
    """Whether the file begins as a safetensors file does: a length, and a JSON object. False when it cannot be read."""
    try:
        with path.open("rb") as file:
            return _is_safetensors(file.read(16))
    except OSError:
        return False


def _is_safetensors(start: bytes) -> bool:
    return len(start) >= 9 and start[8:9] == b"{" and struct.unpack("<Q", start[:8])[0] < 2**40


def _zip(path: Path) -> Content:
    """torch's own files are zip archives too."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except Exception:  # zipfile raises all kinds of exceptions on damaged archives
        return Content("a zip archive or a PyTorch file that was cut off", AGAIN)
    return _TORCH if any(name.endswith("data.pkl") for name in names) else _ZIP


def _text(path: Path, start: bytes) -> Content | None:
    if _MARKUP.match(start):
        return _PAGE
    if _XML.match(start):
        return Content("an XML document", _SIGN_IN)
    if start.lstrip()[:1] in (b"{", b"[") and (said := _json(path)) is not None:
        return said
    try:
        text = start[:-4].decode("utf-8") if len(start) == _LOOK else start.decode("utf-8")
    except UnicodeDecodeError:
        return None
    if not all(char.isprintable() or char.isspace() for char in text):
        return None
    line = " ".join(text.split())[:80]
    return Content(f'a text ("{line}")', AGAIN)


def _json(path: Path) -> Content | None:
    """A website's answer that the file is not available, or another JSON document."""
    try:
        content = json.loads(path.read_bytes()) if path.stat().st_size < 1 << 20 else None
    except (ValueError, RecursionError):
        return None
    if content is None:
        return None
    said = (
        [content[key] for key in ("error", "message", "detail") if key in content] if isinstance(content, dict) else []
    )
    texts = [text for text in said if isinstance(text, str)]
    if said:
        says = f" ({': '.join(texts)[:200]})" if texts else ""
        return Content(f"an error message of a website{says}", _SIGN_IN)
    return Content("a JSON document", "Give the .safetensors file.")

"""The bytes of a caption file as text: read correctly, or refused with the reason. Nothing is guessed silently.

Editors and taggers around the world save UTF-8, UTF-16 with and without a byte order mark, and code pages. Of the code
pages only the Western one (Windows-1252) can be recognised reliably from a few words, and only where every byte stands
as it would in such words. Chinese, Japanese, Korean and Cyrillic ones look alike in so short a text, so they are
refused.
"""

from __future__ import annotations

import codecs
import re

LARGEST = 64 << 20
"""Most bytes of a caption file."""
WESTERN = "Windows-1252"
UNKNOWN = "the encoding is not known"

_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # before UTF-16's, with which it begins
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_BEHIND = b"\0\x1a \t\r\n"
"""What programs leave after a text: padding, DOS' end of file, white space."""
_CONTROL = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f]")
_SHORTEST_WIDE = 4
_INVISIBLE = re.compile("[\u00ad\u200b\u2060\ufeff]")
"""Line breaks of web pages, which a tokenizer would take for a part of the word."""

_LINE_ENDS = re.compile("[\r\n\x85\u2028\u2029]+")

# Windows-1252: where its letters and signs can stand; the look-arounds exclude the halves of Asian characters. The
# Icelandic letters are left out: in Turkey's code page they are Turkish ones.
_LETTER = "a-zA-ZÀ-ÏÑ-ÖØ-ÜßŒœà-ïñ-öø-üÿ"
_WORD = re.compile(f"[{_LETTER}]+")
_SIGNS = re.compile(
    rf"(?<=[A-Za-zé])’(?=(?:s|t|re|ve|ll|d|m|em|all)(?![{_LETTER}]))"  # sara’s, don’t
    rf"|(?<![{_LETTER}])[lLdDjJcCmMnNtTsS]’(?=[aeiouyhéèêàâîôAEIOUYHÉÈÊÀÂÎÔ])"  # l’été
    r"|(?<=[sS])’(?=[\s,.]|$)"  # the girls’ room
    rf"|(?<![^\s(])“(?=[{_LETTER}0-9])[^“”]*(?<=[{_LETTER}0-9.,!?])”(?![{_LETTER}0-9])"
    rf"|(?<![^\s(])‘(?=[{_LETTER}0-9])[^‘’]*(?<=[{_LETTER}0-9.,!?])’(?![{_LETTER}0-9])"
    r"|(?<=\S )[–—](?= \S)|(?<=\d)–(?=\d)"
    r"|(?<=[A-Za-z.])…(?=\s|$)|(?<=\d)[°½€£](?=[\s,.CF]|$)|(?<![^\s,])[€£](?=\d)"
    rf"|(?<![^\s,])[¿¡](?=[{_LETTER}])"
)


class NotText(ValueError):
    """These bytes are not text, or their encoding cannot be known; the message is the reason."""


def decode(data: bytes) -> tuple[str, str]:
    """The text of a file and its encoding ("utf-8", "utf-16-le", ..., or WESTERN, which is the one that is a guess).

    Byte order marks and what programs leave after a text (NULs, DOS' end of file) are removed. Raises NotText.
    """
    if len(data) > LARGEST:
        raise NotText(f"larger than {LARGEST >> 20} MB")
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            return _strict(data[len(mark) :], encoding), encoding
    body = data.rstrip(_BEHIND)
    if b"\0" in body:
        return _wide(data)
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError:
        return _western(body), WESTERN
    return _checked(text), "utf-8"


def decode_whole(data: bytes) -> str:
    """The text of a file of any size that programs write and read: UTF-8, or UTF-16 as PowerShell and Notepad save it.

    Raises NotText; no encoding is guessed here.
    """
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            return _strict(data[len(mark) :], encoding)
    if b"\0" in data[:64]:
        return _wide(data)[0]
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise NotText("it is not UTF-8 text") from error


def lines_of(text: str) -> list[str]:
    """The non-empty lines of a caption file, white space collapsed and invisible characters removed."""
    plain = _INVISIBLE.sub("", text)
    return [line for line in (" ".join(line.split()) for line in _LINE_ENDS.split(plain)) if line]


def file_text(text: str) -> str:
    """`text` as written to a caption file: tidy lines, at least one, because kohya's loader refuses a file without
    any."""
    return "".join(f"{line}\n" for line in lines_of(text) or [""])


def _strict(data: bytes, encoding: str) -> str:
    try:
        return _checked(data.decode(encoding))
    except UnicodeDecodeError as error:
        raise NotText(f"marked as {encoding[:6].rstrip('-').upper()}, which it is not") from error


def _checked(text: str) -> str:
    """The text without marks and without what follows it. Raises NotText for control characters: no text has them."""
    text = text.replace("\ufeff", "").rstrip("\0\x1a")
    odd = _CONTROL.search(text)
    if odd is not None:
        raise NotText(f"not text: it holds the control character {ord(odd[0]):#04x}")
    return text


def _wide(data: bytes) -> tuple[str, str]:
    """UTF-16 or UTF-32 without its mark: most characters of a caption have a NUL among their bytes, on one side."""
    for encoding, width in (("utf-32-le", 4), ("utf-32-be", 4), ("utf-16-le", 2), ("utf-16-be", 2)):
        body = data.rstrip(b"\0") if encoding.endswith("le") else data
        body += b"\0" * (-len(body) % width) if encoding.endswith("le") else b""
        try:
            text = _checked(body.decode(encoding))
        except ValueError:
            continue
        narrow = sum(character < "\u0100" for character in text)
        if len(text) < _SHORTEST_WIDE or narrow * 2 < len(text):
            continue
        if narrow < len(text) and body.replace(b"\0", b"").isascii():
            continue  # letters with some NULs between them, which in pairs make other letters
        return text, encoding
    raise NotText("not text: it holds NULs")


def _western(body: bytes) -> str:
    """Windows-1252, where each of its letters and signs stands as in a Western language. Raises NotText."""
    try:
        text = _checked(body.decode("cp1252"))
    except ValueError as error:
        raise NotText(UNKNOWN) from error
    rest = _SIGNS.sub(lambda match: re.sub("[’“”‘–—…°½€£¿¡]", " ", match[0]), text)
    words = [word for word in _WORD.findall(rest) if not word.isascii()]
    # a word of one letter here is one in Russian, too
    certain = rest.isascii() or any(len(word) > 1 for word in words)
    if not certain or not _WORD.sub("", rest).isascii() or not all(map(_is_western, words)):
        raise NotText(UNKNOWN)
    return text


def _is_western(word: str) -> bool:
    """Whether this is spelled like a word: some letters with accents, capitals at the start or throughout."""
    if len(word) == 1:
        return word in "àáéèêóòôøåöäÀÉ"
    accents = re.findall("[^a-zA-Z]+", word)
    if re.search("[ìòù][a-z]", word):
        return False  # Italian has them at the end; in the middle they are Czech letters of another code page
    if max(map(len, accents)) > 2 or sum(map(len, accents)) * 3 > len(word) * 2:
        return False
    return word.isupper() or word[1:].islower()

"""Captions: where they come from, the tag in front, and what changes from step to step."""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path

from lora_train.errors import LoraTrainError
from lora_train.links import MayRead, anywhere
from lora_train.pictures.neighbours import caption_file
from lora_train.pictures.texts import NotText, decode, lines_of


def read_caption(picture: Path, may_read: MayRead = anywhere) -> str | None:
    """The caption that counts for `picture`, in one line; None without one, or where the file is not text.

    Raises LoraTrainError when it cannot be read. `pictures.caption_reading` also reports what was not read.
    """
    file = caption_file(picture, may_read)
    try:
        return caption_text(caption_bytes(file)) if file else None
    except NotText:
        return None


def read_lines(picture: Path, may_read: MayRead = anywhere) -> list[str] | None:
    """All lines of the caption file that counts for `picture`; None and errors as in `read_caption`."""
    file = caption_file(picture, may_read)
    try:
        return lines_of(decode(caption_bytes(file))[0]) if file else None
    except NotText:
        return None


def caption_bytes(file: Path) -> bytes:
    """The bytes of a caption file. Raises LoraTrainError: without it the picture would be trained on with other
    words."""
    try:
        return file.read_bytes()
    except OSError as error:
        raise LoraTrainError(
            f"the caption cannot be read: {error.strerror}.", str(file), "Allow reading it, or move it away."
        ) from error


def caption_text(data: bytes) -> str:
    """The caption in a file's bytes. Raises NotText."""
    return caption_line(decode(data)[0])


def caption_line(text: str) -> str:
    """The caption in a file's text: its first line, "" without any. Other lines are alternatives, as in sd-scripts."""
    return next(iter(caption_lines(text)), "")


def caption_lines(text: str) -> list[str]:
    """The alternatives in a file's text, white space collapsed; without a tool's comments (`# ...`)."""
    lines = lines_of(text)
    return [line for line in lines if not is_remark(line)] or lines


def is_remark(line: str) -> bool:
    """Whether a line is a comment rather than a caption."""
    return line.startswith("# ")


def with_tag(tag: str, caption: str) -> str:
    """Put the activation tag(s) in front of `caption`, unless the caption has them all already.

    >>> with_tag("sara", "a woman in a park")
    'sara, a woman in a park'
    >>> with_tag("sara", "photo of sara")
    'photo of sara'
    """
    tag = tag.strip().strip(",").strip()
    if up_to_tag(tag, caption) is not None:
        return caption
    return f"{tag}, {caption}" if caption else tag


def tag_first(tag: str, caption: str) -> str:
    """The caption with the tag(s) as its first part(s), and nowhere else.

    >>> tag_first("sara", "a woman in a park, hat, sara")
    'sara, a woman in a park, hat'
    """
    tags = _parts(tag)
    forms = {part.casefold() for part in tags}
    return ", ".join([*tags, *(part for part in _parts(caption) if part.casefold() not in forms)])


def without_tag(tag: str, caption: str) -> str:
    """The caption without the tag(s), as `up_to_tag` reads them.

    >>> without_tag("sara, blue hat", "sara, a woman in a park, Blue Hat")
    'a woman in a park'
    >>> without_tag("sks", "sks on blue")
    'on blue'
    """
    for part in _parts(tag):
        caption = _tag_pattern(part).sub(" ", caption)
    return ", ".join(" ".join(part.split()) for part in _parts(caption))


def _tag_pattern(part: str) -> re.Pattern[str]:
    words = r"[\s,]+".join(map(re.escape, part.split()))
    return re.compile(rf"(?<!\w){words}(?!\w)", re.IGNORECASE)


def up_to_tag(tag: str, caption: str) -> str | None:
    """The start of the caption, up to where all tag(s) have been read; None where one is missing.

    Case makes no difference, and any white space or comma may stand between the words of a tag. A part of a longer word
    is not the tag: "sks" is in "sks's" and "sks-like", which the tokenizer splits, but not in "sksmile".
    """
    text = unicodedata.normalize("NFC", caption)
    end = 0
    for part in _parts(unicodedata.normalize("NFC", tag)):
        found = _tag_pattern(part).search(text)
        if found is None:
            return None
        end = max(end, found.end())
    return text[:end]


def kept_first(caption: str, keep_tokens: int, tag: str = "") -> tuple[list[str], int]:
    """The parts of a caption with those that are not shuffled in front, and how many these are."""
    parts = _parts(caption)
    kept = list(dict.fromkeys(number for one in _parts(tag) if (number := _holding(one, parts)) is not None))
    kept += [number for number in range(min(keep_tokens, len(parts))) if number not in kept]
    rest = sorted(set(range(len(parts))) - set(kept))
    return [parts[number] for number in kept + rest], len(kept)


def _holding(tag: str, parts: list[str]) -> int | None:
    """The index of the part that is the tag, or else of the first that contains it."""
    form = tag.casefold()
    same = (number for number, part in enumerate(parts) if part.casefold() == form)
    inside = (number for number, part in enumerate(parts) if up_to_tag(tag, part) is not None)
    return next(same, next(inside, None))


def _parts(text: str) -> list[str]:
    return [part for part in (piece.strip() for piece in text.split(",")) if part]

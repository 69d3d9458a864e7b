"""The captions of many pictures, and what the person should know about how they were read."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lora_train.links import OUT, MayRead, anywhere, leads_out
from lora_train.pictures.captions import caption_bytes, caption_lines, is_remark
from lora_train.pictures.neighbours import CAPTION_EXTENSIONS, caption_files, unread_files
from lora_train.pictures.texts import WESTERN, NotText, decode, lines_of

NAMED = 5
"""At most this many files are named in a note."""


@dataclass
class CaptionReader:
    """Reads captions, and remembers the files that need a note."""

    may_read: MayRead = anywhere
    """Whether a caption that is a link to this place may be read."""
    all_lines: bool = False
    """Whether every line of a caption is used, or the first one alone."""
    others: Sequence[str] = ()
    """The other lines of the caption that was read last."""
    not_text: dict[str, list[Path]] = field(default_factory=dict)
    """By reason."""
    guessed: list[Path] = field(default_factory=list)
    several: list[Path] = field(default_factory=list)
    remarks: list[Path] = field(default_factory=list)
    doubled: list[Path] = field(default_factory=list)
    unread: list[Path] = field(default_factory=list)
    linked: list[Path] = field(default_factory=list)

    def read(self, picture: Path, extensions: Sequence[str] = CAPTION_EXTENSIONS) -> str | None:
        """The caption beside a picture; None without one, or where the file is not text. Raises LoraTrainError."""
        self.others = ()
        there = caption_files(picture, extensions)
        files = [file for file in there if not leads_out(file, self.may_read)]
        self.linked += [file for file in there if file not in files]
        texts = {file: text for file in files if (text := self._text(file)) is not None}
        if not texts:
            self.unread += unread_files(picture)
            return None
        file = next(iter(texts))
        lines = [caption_lines(text) for text in texts.values()]
        if any(other != lines[0] for other in lines):
            self.doubled.append(file)
        return self.line(file, texts[file])

    def line(self, file: Path, text: str) -> str:
        """The caption in a text from `file`, or from metadata about it."""
        lines = caption_lines(text)
        if len(lines) > 1:
            self.several.append(file)
        if any(map(is_remark, lines_of(text))):
            self.remarks.append(file)
        self.others = lines[1:]
        return next(iter(lines), "")

    def _text(self, file: Path) -> str | None:
        try:
            text, encoding = decode(caption_bytes(file))
        except NotText as error:
            self.not_text.setdefault(str(error), []).append(file)
            return None
        if encoding == WESTERN:
            self.guessed.append(file)
        return text

    def encoding_notes(self) -> list[str]:
        """Notes on files that could not be read, or whose encoding was guessed."""
        notes = [
            f"{_many(files, 'caption file')} cannot be read and count{'s' if len(files) == 1 else ''} as missing: "
            f"{named(files)} ({reason}). Save {'it' if len(files) == 1 else 'them'} as UTF-8 text."
            for reason, files in self.not_text.items()
        ]
        if self.linked:
            what = OUT if len(self.linked) == 1 else OUT.replace("a link", "links")
            notes.append(
                f"{_many(self.linked, 'caption file')} {'is' if len(self.linked) == 1 else 'are'} {what}, and not "
                f"read: {named(self.linked)}."
            )
        if self.guessed:
            notes.append(
                f"{_many(self.guessed, 'caption file')} not in UTF-8 {_were(self.guessed)} read as {WESTERN} "
                f"({named(self.guessed)}). Check accents and quotes, or save as UTF-8 text."
            )
        return notes

    def unread_notes(self) -> list[str]:
        """Notes on files that look like captions and are not read, and on which of several was read."""
        notes = self.encoding_notes()
        if self.doubled:
            notes.append(
                f"{_many(self.doubled, 'picture')} {_has(self.doubled)} several caption files that differ; "
                f"read: {named(self.doubled)}."
            )
        if self.unread:
            notes.append(
                f"Not read, although beside pictures without a caption: {named(self.unread)}. "
                "Captions are read from NAME.txt, NAME.caption and NAME.jpg.txt."
            )
        return notes

    def notes(self) -> list[str]:
        """All notes."""
        notes = self.unread_notes()
        if self.several:
            notes.append(
                f"{_many(self.several, 'caption')} {_has(self.several)} several lines ({named(self.several)}). They "
                f"are alternatives; {'one is drawn each time' if self.all_lines else 'the first is used'}, as in "
                "sd-scripts."
            )
        if self.remarks:
            notes.append(
                f"{_many(self.remarks, 'caption')} {_has(self.remarks)} lines that start with # "
                f"({named(self.remarks)}). They are comments and not used."
            )
        return notes


def named(files: Iterable[Path]) -> str:
    """The first names, and how many more there are."""
    names = list(dict.fromkeys(file.name for file in files))
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more} more" if more > 0 else "")


def _many(files: Sequence[Path], what: str) -> str:
    return f"{len(files)} {what}{'' if len(files) == 1 else 's'}"


def _were(files: Sequence[Path]) -> str:
    return "was" if len(files) == 1 else "were"


def _has(files: Sequence[Path]) -> str:
    return "has" if len(files) == 1 else "have"

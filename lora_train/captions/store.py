"""Captions beside pictures: what a person wrote wins; a captioner's text is written whole or not at all."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from lora_train.atomic import write_bytes, write_text
from lora_train.errors import LoraTrainError
from lora_train.pictures.neighbours import CAPTION_EXTENSIONS, caption_file
from lora_train.pictures.opening import BrokenPicture, load_picture
from lora_train.pictures.texts import file_text

if TYPE_CHECKING:
    from PIL import Image

Captioner = Callable[["Iterable[Image.Image]"], "Iterator[str]"]
"""One text per picture, in order."""


@dataclass(frozen=True)
class Stored:
    """The result for one picture's caption; `file` is None only for a broken picture."""

    picture: Path
    file: Path | None
    outcome: Literal["written", "kept", "broken"]
    reason: str = ""


def store_caption(picture: Path, text: str, recaption: bool = False, backup: bool = False) -> Stored:
    """Write `text` beside `picture` as one line. An existing caption file wins unless `recaption`.

    A file that is replaced keeps its name and extension, and with `backup` its old text as `.bak`.
    Raises LoraTrainError when it cannot be written.
    """
    return store_lines(picture, [" ".join(text.split())], recaption, backup)


def store_lines(picture: Path, lines: Iterable[str], recaption: bool = False, backup: bool = False) -> Stored:
    """As `store_caption`, of several lines: the first is the caption, the others are alternatives to it."""
    existing = caption_file(picture)
    if existing and not recaption:
        return Stored(picture, existing, "kept", "there is a caption already")
    file = existing or picture.with_suffix(CAPTION_EXTENSIONS[0])
    if existing and backup:
        keep_backup(existing)
    write_text(file, file_text("\n".join(lines).encode("utf-8", "replace").decode()))
    return Stored(picture, file, "written")


def store_captions(
    pictures: Iterable[Path], captioner: Captioner, recaption: bool = False, backup: bool = False
) -> Iterator[Stored]:
    """Caption those of `pictures` that need it, each written as soon as it is known.

    The captioner sees only intact pictures whose caption is wanted. What it raises is passed
    on; what was written until then stays.
    """
    asked: deque[Path] = deque()
    finished: deque[Stored] = deque()

    def opened() -> Iterator[Image.Image]:
        for picture in pictures:
            existing = caption_file(picture)
            if existing and not recaption:
                finished.append(Stored(picture, existing, "kept", "there is a caption already"))
                continue
            try:
                image = load_picture(picture)
            except BrokenPicture as error:
                finished.append(Stored(picture, None, "broken", str(error)))
                continue
            asked.append(picture)
            yield image

    for text in captioner(opened()):
        yield from _emptied(finished)
        yield store_caption(asked.popleft(), text, recaption, backup)
    yield from _emptied(finished)
    if asked:
        what = f"the captioner returned nothing for {len(asked)} pictures."
        raise LoraTrainError(what, str(asked[0]), "Choose another captioner.")


def keep_backup(file: Path) -> Path:
    """Copy `file` to `<name>.bak`, or `.bak2` and so on: no earlier backup is lost. Returns the copy."""
    try:
        data = file.read_bytes()
    except OSError as error:
        raise LoraTrainError(f"cannot read the file: {error.strerror}.", str(file)) from error
    copy, number = file.with_name(f"{file.name}.bak"), 1
    while copy.exists() or copy.is_symlink():
        if copy.is_file() and copy.read_bytes() == data:
            return copy
        number += 1
        copy = file.with_name(f"{file.name}.bak{number}")
    write_bytes(copy, data)
    return copy


def _emptied(finished: deque[Stored]) -> Iterator[Stored]:
    while finished:
        yield finished.popleft()

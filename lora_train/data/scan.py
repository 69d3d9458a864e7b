"""A folder of pictures becomes a manifest: every picture with caption, concept and repeats.

Folder names follow kohya: `10_sara woman` means 10 repeats of the concept "sara woman"; any other
sub-folder is a concept of its own with the run's repeats.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from lora_train.config import DataOptions
from lora_train.errors import LoraTrainError
from lora_train.pictures.caption_content import content_notes
from lora_train.pictures.caption_reading import CaptionReader
from lora_train.pictures.captions import caption_line, with_tag
from lora_train.pictures.finding import REPEATS, Found, find
from lora_train.pictures.finding import is_ours as is_ours
from lora_train.pictures.kinds import EXTENSIONS
from lora_train.pictures.left_out import SHOWN, LeftOut, Reason, shown
from lora_train.pictures.left_out import Rejected as Rejected
from lora_train.pictures.left_out import as_text as as_text
from lora_train.pictures.opening import BrokenPicture, NoReader, look_at
from lora_train.pictures.plain import plain_note, shows_nothing

UNUSABLE = Reason("file that cannot be used", "files that cannot be used")
LEAST_SIDE = 8
"""Pixels per side; less is not even one latent."""
_MEANT = re.compile(r"(\d{1,3})(?:[-. ]|x[-_ ])\s*(\D.*)", re.DOTALL)
"""`10-sara`, `10 sara`, `10x_sara`: kohya reads no repeats from these."""
MANY_REPEATS = 1000
"""More repeats than this in a folder's name get a note: it may be a date."""


@dataclass(frozen=True)
class Picture:
    """One picture of the training set; size in pixels as displayed."""

    path: Path
    width: int
    height: int
    caption: str
    concept: str
    repeats: int
    mask: Path | None = None
    """The mask of a masked loss (see `data.masks`); None: the whole picture counts."""
    others: tuple[str, ...] = ()
    """Other captions, of which one may be drawn in its place (`enable_wildcard`)."""
    reg: bool = False
    """Whether it is a regularisation picture: of the class, without the subject (see `data.regularisation`)."""
    held_out: bool = False
    """Whether it is held out for validation, and not trained on."""
    again: bool = False
    """Whether this is a picture that is there already, at another resolution."""
    weight: float = 1.0
    """Factor on its loss."""
    own: tuple[tuple[str, Any], ...] = ()
    """Options of the section "data" that it has a value of its own for: those of its subset in a dataset config."""

    @property
    def lines(self) -> tuple[str, ...]:
        """Its caption, and the others."""
        return (self.caption, *self.others)

    def options(self, data: DataOptions) -> DataOptions:
        """The options that apply to it in a run with `data`."""
        own = (*self.own, ("tag", "")) if self.reg else self.own
        return _with_own(data, own) if own else data


@lru_cache(maxsize=256)
def _with_own(data: DataOptions, own: tuple[tuple[str, Any], ...]) -> DataOptions:
    return replace(data, **dict(own))


@dataclass
class Manifest:
    """What a scan found, in a fixed order (by path)."""

    folder: Path
    pictures: list[Picture] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)
    left_out: LeftOut = field(default_factory=LeftOut)
    """What else is not trained on, counted by reason."""
    masks: Path | None = None
    """A folder with masks at the pictures' relative paths, where there is one."""
    beside: Mapping[Path, Path] = field(default_factory=dict)
    """Masks beside their pictures, by picture."""
    reg_folders: list[Path] = field(default_factory=list)
    """Folders of regularisation pictures that were left out."""
    notes: list[str] = field(default_factory=list)
    """What the person should know about it."""

    @property
    def trained(self) -> list[Picture]:
        """The pictures of the subject, each once: without those of regularisation, and without those held out."""
        return [one for one in self.pictures if not (one.reg or one.held_out or one.again)]

    @property
    def looks_per_epoch(self) -> int:
        """How many pictures of the subject an epoch trains on, repeats counted."""
        return sum(picture.repeats for picture in self.trained)

    def captions(self) -> list[tuple[Path, str]]:
        """Each picture's caption."""
        return [(picture.path, picture.caption) for picture in self.pictures]

    def summary(self) -> str:
        """One line for the person: how many pictures and concepts, and what is left out for which reason."""
        trained = self.trained
        concepts = len({picture.concept for picture in trained})
        text = f"{counted(len(trained), 'picture')} in {counted(concepts, 'concept')}"
        if reg := sum(picture.reg and not picture.again for picture in self.pictures):
            text += f", and {counted(reg, 'regularisation picture')}"
        if held := sum(picture.held_out for picture in self.pictures):
            text += f"; {held} held out for validation"
        left_out = self.left_out_line()
        return f"{text}; left out: {left_out}" if left_out else text

    def left_out_line(self) -> str:
        """Everything left out, counted by reason; "" where nothing is."""
        everything = LeftOut()
        everything.extend(self.left_out)
        for one in self.rejected:
            everything.add(UNUSABLE, shown(one.path.name))
        return everything.line()


def counted(number: int, what: str) -> str:
    """ "1 picture", "2 pictures"."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def scan(
    folder: Path,
    tag: str = "",
    repeats: int = 10,
    captions: Mapping[Path, str] = {},
    may_read: Callable[[Path], bool] = lambda path: True,
    data: DataOptions = DataOptions(),
) -> Manifest:
    """Find all pictures below `folder`. A broken picture is listed as rejected, never fatal.

    `repeats` applies where a folder's name says none, `captions` where there is no caption file; links that `may_read`
    refuses are not followed. `data` says how captions are read. Raises LoraTrainError when the folder does not exist or
    holds no usable picture.
    """
    require_folder(folder)
    found, reader, overruled = (
        find(folder, may_read=may_read),
        CaptionReader(may_read, data.enable_wildcard),
        list[Path](),
    )
    manifest = manifest_of(found)
    for path, size in usable(found.pictures, manifest):
        own_repeats, concept = concept_of(path.parent.name)
        caption = reader.read(path)
        if caption is not None and caption_line(captions.get(path, caption)) != caption:
            overruled.append(path)
        if caption is None:
            caption = reader.line(path, captions[path]) if path in captions else None
        if caption is None:
            caption = "" if tag else (concept if path.parent != folder or own_repeats else "")
        lines = captions_of([caption, *reader.others], tag, suffix=data.caption_suffix)
        manifest.pictures.append(Picture(path, *size, lines[0], concept, own_repeats or repeats, others=lines[1:]))
    manifest.notes += [
        *_doubtful_repeats(manifest),
        *_no_repeats(manifest),
        *_overruled(overruled),
        *reader.notes(),
        *content_notes(manifest.captions(), tag, data),
    ]
    require_pictures(manifest)
    return manifest


def captions_of(lines: Iterable[str], tag: str, prefix: str = "", suffix: str = "") -> tuple[str, ...]:
    """The lines of a caption between prefix and suffix, with the tag in front of each."""
    around = (" ".join(part for part in (prefix.strip(), line, suffix.strip()) if part) for line in lines)
    return tuple(with_tag(tag, line) for line in around)


def manifest_of(found: Found) -> Manifest:
    """A manifest without pictures yet, with what was left out in finding them."""
    return Manifest(
        found.folder,
        rejected=[*found.rejected],
        left_out=found.left_out,
        beside=found.masks,
        reg_folders=[*found.reg_folders],
        notes=[*found.notes],
    )


def usable(paths: Iterable[Path], manifest: Manifest) -> Iterator[tuple[Path, tuple[int, int]]]:
    """The pictures that can be opened, with their sizes as displayed; the others, and notes on some, go into
    `manifest`."""
    moving, plain, count = [], [], 0
    for path in paths:
        try:
            look = look_at(path)
        except NoReader as error:
            manifest.left_out.add(no_reader(error), shown(path.name))
            continue
        except BrokenPicture as error:
            manifest.rejected.append(Rejected(path, str(error)))
            continue
        if min(look.width, look.height) < LEAST_SIDE:
            reason = f"it is only {look.width} x {look.height} pixels; nothing can be learned from it"
            manifest.rejected.append(Rejected(path, reason))
        else:
            count += 1
            moving += [shown(path.name)] if look.moving else []
            plain += [shown(path.name)] if shows_nothing(path, (look.width, look.height)) else []
            yield path, (look.width, look.height)
    if moving:
        manifest.notes.append(moving_note(moving))
    if plain:
        manifest.notes.append(plain_note(plain, count))


def no_reader(error: NoReader) -> Reason:
    """Pictures of a kind that no installed package reads, and the package that does."""
    what = f"not read: install {error.package}"
    return Reason(f"{error.kind} picture {what}", f"{error.kind} pictures {what}")


def moving_note(names: list[str]) -> str:
    """The note about animations and files of several pages."""
    more = ", ..." if len(names) > SHOWN else ""
    what = counted(len(names), "file")
    return f"{what} with several pictures ({', '.join(names[:SHOWN])}{more}): the first one is used."


def _doubtful_repeats(manifest: Manifest) -> list[str]:
    folders = {one.path.parent.name: one.repeats for one in manifest.pictures if one.repeats > MANY_REPEATS}
    return [
        f'The folder "{shown(name)}" says {repeats} repeats of each picture, as kohya reads it; '
        "rename it if that is a date or a number."
        for name, repeats in folders.items()
        if concept_of(name)[0] == repeats
    ]


def _no_repeats(manifest: Manifest) -> list[str]:
    """Folders whose names look as if they said repeats but do not."""
    folders = dict.fromkeys(one.path.parent.name for one in manifest.pictures if one.path.parent != manifest.folder)
    meant = {name: match for name in folders if (match := _MEANT.fullmatch(name))}
    return [
        f'The folder "{shown(name)}" does not set repeats, it is a name: {match[1]} repeats are written '
        f'"{match[1]}_{shown(match[2])}".'
        for name, match in meant.items()
    ]


def _overruled(paths: list[Path]) -> list[str]:
    if not paths:
        return []
    names = ", ".join(shown(path.name) for path in paths[:SHOWN]) + (", ..." if len(paths) > SHOWN else "")
    return [
        f"{counted(len(paths), 'picture')} with a caption file and another caption in metadata.jsonl ({names}): the "
        "file is used."
    ]


def require_pictures(manifest: Manifest) -> None:
    """Raise LoraTrainError unless there is a picture to train on."""
    if not manifest.pictures:
        raise _nothing_usable(manifest)


def require_folder(folder: Path) -> None:
    """Raise LoraTrainError unless this is a folder."""
    if not folder.is_dir():
        what = "this is a file, not a folder." if folder.exists() else "there is no such folder."
        raise LoraTrainError(what, as_text(str(folder)), "Give the folder that holds your pictures.")


def concept_of(name: str) -> tuple[int | None, str]:
    """Repeats and concept of a folder's name; no repeats when the name does not start with `N_`.

    >>> concept_of("10_sara woman")
    (10, 'sara woman')
    >>> concept_of("pictures")
    (None, 'pictures')
    """
    match = REPEATS.fullmatch(name)
    if match and int(match[1]) > 0:
        return int(match[1]), match[2].strip()
    return None, name


def _nothing_usable(manifest: Manifest) -> LoraTrainError:
    where, left_out = str(manifest.folder), manifest.left_out.line()
    besides = f" Left out: {left_out}." if left_out else ""
    if not manifest.rejected:
        kinds = ", ".join(sorted(extension[1:] for extension in EXTENSIONS))
        what = (
            "there are no pictures to train on in this folder" if left_out else "there are no pictures in this folder"
        )
        return LoraTrainError(f"{what}.{besides}", where, f"Put some there ({kinds}).")
    listed = "; ".join(f"{r.path.name}: {r.reason}" for r in manifest.rejected[:5])
    more = f"; and {len(manifest.rejected) - 5} more" if len(manifest.rejected) > 5 else ""
    return LoraTrainError(
        f"none of the {len(manifest.rejected)} files in this folder can be used ({listed}{more}).{besides}",
        where,
        "Replace them with real pictures.",
    )

"""A folder of pictures becomes a manifest: every picture with caption, concept and repeats.

Folder names follow kohya: `10_sara woman` means 10 repeats of the concept "sara woman"; any other
sub-folder is a concept of its own with the run's repeats.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from lora_train.data.caption_content import content_notes
from lora_train.data.caption_reading import CaptionReader
from lora_train.data.captions import with_tag
from lora_train.data.pictures import EXTENSIONS, BrokenPicture, picture_size
from lora_train.errors import LoraTrainError

OURS = {"published.json", "unpacked.json", "running.lock"}
"""Files that only our own folders have."""


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
    """What counts in a masked loss (see `data.masks`); None: the whole picture."""


@dataclass(frozen=True)
class Rejected:
    """A file that is not trained on, and why in plain words."""

    path: Path
    reason: str


@dataclass
class Manifest:
    """What a scan found, in a fixed order (by path)."""

    folder: Path
    pictures: list[Picture] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)
    masks: Path | None = None
    """A folder with masks at the pictures' relative paths, where there is one."""
    notes: list[str] = field(default_factory=list)
    """What the person should know of it."""

    @property
    def looks_per_epoch(self) -> int:
        """How many pictures an epoch shows, repeats counted."""
        return sum(picture.repeats for picture in self.pictures)

    def captions(self) -> list[tuple[Path, str]]:
        """Each picture's caption."""
        return [(picture.path, picture.caption) for picture in self.pictures]

    def summary(self) -> str:
        """One line for the person: how many pictures, concepts, captions, rejects."""
        concepts = len({picture.concept for picture in self.pictures})
        text = f"{len(self.pictures)} pictures in {concepts} concept{'s' if concepts > 1 else ''}"
        if self.rejected:
            text += f", {len(self.rejected)} rejected"
        return text


def scan(folder: Path, tag: str = "", repeats: int = 10, captions: Mapping[Path, str] = {}) -> Manifest:
    """Find all pictures below `folder`. A broken picture is listed as rejected, never fatal.

    `repeats` counts where a folder's name does not, `captions` where there is no caption file. Raises LoraTrainError
    when the folder does not exist or holds no usable picture.
    """
    require_folder(folder)
    manifest, reader = Manifest(folder), CaptionReader()
    for path in picture_files(folder, everything=True):
        if not is_text(str(path)):
            shown = Path(as_text(str(path)))
            manifest.rejected.append(Rejected(shown, "its name, or its folder's, is no text (UTF-8); rename it"))
            continue
        try:
            width, height = picture_size(path)
        except BrokenPicture as error:
            manifest.rejected.append(Rejected(path, str(error)))
            continue
        own_repeats, concept = concept_of(path.parent.name)
        caption = reader.read(path)
        if caption is None:
            caption = reader.line(path, captions[path]) if path in captions else None
        if caption is None:
            caption = "" if tag else (concept if path.parent != folder or own_repeats else "")
        manifest.pictures.append(Picture(path, width, height, with_tag(tag, caption), concept, own_repeats or repeats))
    manifest.notes += reader.notes() + content_notes(manifest.captions(), tag)
    require_pictures(manifest)
    return manifest


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
    match = re.fullmatch(r"(\d{1,5})_(.*)", name)
    if match and int(match[1]) > 0:
        return int(match[1]), match[2].strip()
    return None, name


def picture_files(folder: Path, everything: bool = False) -> Iterator[Path]:
    """Picture files below `folder`, sorted; left out are what is hidden, the previews beside LoRA files, and what lies
    in folders of ours below it (the data folder is by default where the program was started).

    Files whose name is no text come only with `everything`: no report and no metadata could hold them. Raises
    LoraTrainError when a folder cannot be read.
    """
    found = []
    for place, folders, files in os.walk(folder, onerror=_unreadable):
        folders[:] = [name for name in folders if not name.startswith(".")]
        if is_ours(files) and Path(place) != folder:
            folders.clear()
            continue
        found += [Path(place, name) for name in files if not name.startswith(".")]
    for path in sorted(found):
        named = everything or is_text(str(path))
        if named and path.suffix.lower() in EXTENSIONS and path.is_file() and not _is_preview(path):
            yield path


def is_ours(files: Iterable[str]) -> bool:
    """Whether a folder with these files is one of ours: prepared pictures, unpacked shards, a run."""
    return not OURS.isdisjoint(files)


def is_text(name: str) -> bool:
    """Whether a name from the file system is text: bytes that are no UTF-8 come as lone surrogates."""
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def as_text(name: str) -> str:
    """A name from the file system that can be shown and written, whatever its bytes."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _is_preview(path: Path) -> bool:
    """Whether it is the picture on a LoRA's card (`name.preview.png` or `name.png` beside `name.safetensors`)."""
    # Path.is_file raises where the name is too long with that ending
    return os.path.isfile(path.with_name(path.stem.removesuffix(".preview") + ".safetensors"))


def _unreadable(error: OSError) -> None:
    raise LoraTrainError(
        f"this folder cannot be read: {error.strerror}.", as_text(str(error.filename)), "Allow reading it."
    ) from error


def _nothing_usable(manifest: Manifest) -> LoraTrainError:
    if not manifest.rejected:
        kinds = ", ".join(sorted(extension[1:] for extension in EXTENSIONS))
        return LoraTrainError(
            "there are no pictures in this folder.", str(manifest.folder), f"Put some there ({kinds})."
        )
    listed = "; ".join(f"{r.path.name}: {r.reason}" for r in manifest.rejected[:5])
    more = f"; and {len(manifest.rejected) - 5} more" if len(manifest.rejected) > 5 else ""
    return LoraTrainError(
        f"none of the {len(manifest.rejected)} files in this folder can be used ({listed}{more}).",
        str(manifest.folder),
        "Replace them by real pictures.",
    )

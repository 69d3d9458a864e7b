"""What is in a folder that a person names: pictures, their masks, and what is left out, counted by reason.

Only files whose names do not say that they are pictures are opened here, to read their first bytes.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from lora_train.errors import LoraTrainError
from lora_train.pictures import kinds
from lora_train.pictures.judging import HIDDEN, why_no_picture
from lora_train.pictures.left_out import SHOWN, LeftOut, Reason, Rejected, as_text, shown

OURS = {"published.json", "unpacked.json", "running.lock"}
"""Files that only our own folders have."""
REPEATS = re.compile(r"(\d{1,6})_(.*)", re.DOTALL)
"""kohya's folder names, `10_sara woman`. More digits are a date or a number, and no epoch could hold that many."""

REGULARISATION = Reason("regularisation picture", "regularisation pictures")
PROJECT = Reason("other picture of a kohya project", "other pictures of a kohya project")
SAMPLES = Reason("preview of earlier trainings", "previews of earlier trainings")
ZERO = Reason("picture with 0 repeats", "pictures with 0 repeats")
MASKS = Reason("mask", "masks")
CONDITIONS = Reason("conditioning picture", "conditioning pictures")
CARDS = Reason("preview beside a LoRA file", "previews beside LoRA files")
OWN = Reason("picture that LoRA Train made", "pictures that LoRA Train made")
THUMBNAILS = Reason("thumbnail", "thumbnails")
DELETED = Reason("deleted picture", "deleted pictures")
SYSTEM = Reason("picture in a system folder", "pictures in system folders")
BROKEN_LINKS = Reason("broken link", "broken links")
LOOPS = Reason("link to a folder that is already read", "links to folders that are already read")
FORBIDDEN = Reason("link out of the folders that may be used", "links out of the folders that may be used")

LITTER = {
    **dict.fromkeys(("@eadir", "@__thumb", ".@__thumb", ".thumbnails", ".thumbs", "thumbs.db"), THUMBNAILS),
    **dict.fromkeys(("#recycle", "@recycle", "$recycle.bin", "recycler", "recycled", "network trash folder"), DELETED),
    **dict.fromkeys((".trash", ".trashes", ".trash-1000", ".stversions"), DELETED),
    **dict.fromkeys(("__macosx", "lost+found", "system volume information", "found.000", "temporary items"), SYSTEM),
    **dict.fromkeys(("#snapshot", "@recently-snapshot", "@tmp", "__pycache__"), SYSTEM),
}
"""Folders that file managers, archives, NAS devices and systems create, by their names in lower case."""
IMAGES = {"img", "image", "images"}
_REG = ("reg", "regs", "regularisation", "regularization", "class")
REG = {*_REG, *(f"{name}_{what}" for name in _REG for what in ("data", "images", "img", "imgs", "dir"))} - {"class"}
OUTPUT = {"model", "models", "log", "logs"}
"""The folders of a kohya project."""
SAMPLE = {"sample", "samples"}
ASIDE = {"rejected", "rejects", "reject", "discarded", "unused", "not used", "excluded", "bad", "old", "backup", "bak"}
"""Names of folders for pictures that somebody put aside."""
LORA_FILES = (".safetensors", ".ckpt", ".pt")
MASK_ENDINGS = ("masklabel", "mask")
"""What follows a picture's name in the name of its mask; the first that exists wins."""
MASK_FOLDERS = {
    **dict.fromkeys(("mask", "masks", "masklabel", "masklabels", "mask_images", "mask_data"), "mask"),
    **dict.fromkeys(("conditioning", "conditioning_data", "conditioning_images", "condlabel", "depth"), "condlabel"),
}
"""Folders whose pictures belong to those of the same names beside them, and what they are to them."""
_BESIDE = re.compile(
    r"(?P<of>.+)[-_. ](?P<kind>masklabel|mask|condlabel|depth|canny|openpose|dwpose|lineart|segmentation|seg|scribble"
    r"|softedge|hed|mlsd|normal(?:s|map|bae)?|alpha|matte)"
    r"(?:[-_ ]?\d{1,2}| ?\(\d+\))?"
    r"|(?P<kind_first>masklabel|mask)[-_. ](?P<of_last>.+)",
    re.IGNORECASE | re.DOTALL,
)
_MASKS_OF = re.compile(r"(.+)[-_. ]mask(?:s|labels?)?|masks?[-_. ](.+)", re.DOTALL)


@dataclass
class Found:
    """What a folder holds, in a fixed order (by path)."""

    folder: Path
    pictures: list[Path] = field(default_factory=list)
    masks: dict[Path, Path] = field(default_factory=dict)
    """By picture: its mask (what counts in a masked loss), where it has one."""
    left_out: LeftOut = field(default_factory=LeftOut)
    rejected: list[Rejected] = field(default_factory=list)
    """Left out for reasons of their own."""
    reg_folders: list[Path] = field(default_factory=list)
    """The folders of regularisation pictures, which are left out."""
    notes: list[str] = field(default_factory=list)


def find(folder: Path, deep: bool = True, may_read: Callable[[Path], bool] = lambda path: True) -> Found:
    """Search `folder`, and with `deep` all folders below it.

    The folder itself is never judged by its name: a person who names `reg` wants to train on it. Links to folders are
    followed once, where `may_read` allows it. Raises LoraTrainError when a folder cannot be read.
    """
    walk = _Walk(Found(folder), may_read)
    walk.folder(_Listing(folder, os.path.realpath(folder)), deep)
    walk.links()
    walk.note_lonely()
    found = walk.found
    found.pictures.sort()
    found.rejected.sort(key=lambda one: str(one.path))
    return found


def is_ours(files: Iterable[str]) -> bool:
    """Whether a folder with these files is one of ours: prepared pictures, unpacked shards, a run."""
    return not OURS.isdisjoint(files)


def is_text(name: str) -> bool:
    """Whether a name from the file system is text: bytes that are not UTF-8 appear as lone surrogates."""
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


class _Listing:
    """The files and folders in a folder by name, sorted; what cannot be reached is in `broken`."""

    def __init__(self, path: Path, real: str) -> None:
        self.path, self.real = path, real
        self.files: list[str] = []
        self.folders: list[str] = []
        self.broken: list[str] = []
        self.links: set[str] = set()
        try:
            with os.scandir(path) as entries:
                for entry in sorted(entries, key=lambda entry: entry.name):
                    self._sort(entry)
        except OSError as error:
            where = as_text(str(error.filename or path))
            raise LoraTrainError(
                f"this folder cannot be read: {error.strerror}.", where, "Allow reading it."
            ) from error

    def _sort(self, entry: os.DirEntry[str]) -> None:
        try:
            if entry.is_symlink():
                self.links.add(entry.name)
            if entry.is_dir():
                self.folders.append(entry.name)
            elif entry.is_file():
                self.files.append(entry.name)
            elif entry.is_symlink():
                self.broken.append(entry.name)
        except OSError:  # a link to itself
            self.broken.append(entry.name)

    def child(self, name: str) -> _Listing:
        return _Listing(self.path / name, os.path.join(self.real, name))


@dataclass(frozen=True)
class _Masked:
    """What the pictures in a folder of masks, and below it, belong to."""

    root: Path
    kind: str
    near: list[Path]
    """The pictures that those in the folder itself may belong to."""
    all: list[Path]
    """The pictures that those below it may belong to, in folders of the same names."""

    def by_name(self, folder: Path) -> dict[str, list[Path]]:
        """The pictures that those in `folder` may belong to."""
        inner = _folded(folder.relative_to(self.root))
        return _by_name(
            [one for one in self.all if _folded(one.parent)[-len(inner) :] == inner] if inner else self.near
        )


def _masked(here: _Listing, name: str, pictures: list[Path]) -> _Masked | None:
    """What the folder `name` holds masks of, of the pictures below `here`; None for a folder of pictures."""
    kind, root = MASK_FOLDERS.get(name.casefold()), here.path / name
    if kind:
        return _Masked(root, kind, [one for one in pictures if here.path in (one.parent, one.parent.parent)], pictures)
    of = _masked_by_name(name)
    beside = [here.path / other for other in here.folders if of and other.casefold() == of]
    if not beside:
        return None
    near = [one for one in pictures if one.is_relative_to(beside[0])]
    return _Masked(root, "mask", [one for one in near if one.parent == beside[0]], near)


def _masked_by_name(name: str) -> str:
    """What the name of a folder (`10_sara_mask`) says that it holds masks of, in lower case; "" where it says
    nothing."""
    match = _MASKS_OF.fullmatch(name.casefold())
    return (match[1] or match[2]) if match else ""


def _folded(path: Path) -> tuple[str, ...]:
    return tuple(part.casefold() for part in path.parts)


class _Walk:
    def __init__(self, found: Found, may_read: Callable[[Path], bool]) -> None:
        self.found, self._may_read = found, may_read
        self._seen: set[str] = set()
        self._links: list[Path] = []
        self._lonely: list[Path] = []
        """Named as masks, but of no picture that exists."""

    def folder(self, here: _Listing, deep: bool, masked: _Masked | None = None) -> None:
        """Take the pictures in a folder and below it; `masked` where it may hold masks."""
        self._seen.add(here.real)
        before = len(self.found.pictures)
        for name in here.broken:
            self._leave_out(BROKEN_LINKS, here.path / name)
        pictures = self._pictures(here)
        pictures = self._without_masks(here, pictures, masked)
        self.found.pictures += pictures
        project = deep and _is_project(here)
        if project:
            self._leave_out_files(PROJECT, pictures)
        # folders of masks last: what they are masks of lies here, or in a folder beside them
        for name in sorted(here.folders, key=lambda name: _masked(here, name, []) is not None) if deep else ():
            reason = _why_not(here, name, project)
            if reason:
                self._leave_out(reason, here.path / name, _count(here.path / name))
                self.found.reg_folders += [here.path / name] if reason is REGULARISATION else []
            elif os.path.realpath(here.path / name) != os.path.join(here.real, name):
                self._links.append(here.path / name)
            else:
                self._enter(here.child(name), masked or _masked(here, name, self.found.pictures[before:]))

    def links(self) -> None:
        """Follow the links to folders that were found, and those behind them: each folder is read once."""
        while self._links:
            link = self._links.pop(0)
            real = os.path.realpath(link)
            if not self._may_read(Path(real)):
                self._leave_out(FORBIDDEN, link)
            elif real in self._seen or os.path.realpath(self.found.folder).startswith(os.path.join(real, "")):
                self._leave_out(LOOPS, link)
            else:
                self._enter(_Listing(link, real))

    def note_lonely(self) -> None:
        """Note what is named as a mask and trained on."""
        if self._lonely:
            names = ", ".join(shown(path.name) for path in self._lonely[:SHOWN])
            more = ", ..." if len(self._lonely) > SHOWN else ""
            self.found.notes.append(
                f"Named as masks, but without a picture of that name, and trained on as pictures: {names}{more}."
            )

    def _enter(self, child: _Listing, masked: _Masked | None = None) -> None:
        if child.real in self._seen:  # already reached through a link
            return
        if is_ours(child.files):
            self._leave_out(OWN, child.path, _count(child.path))
            return
        before = len(self.found.pictures)
        self.folder(child, True, masked)
        if _is_reg(child.path.name) and len(self.found.pictures) > before:
            self.found.notes.append(
                f"The pictures in {self._shown(child.path)}/ are trained on like the others; "
                "if they are for regularisation, give that folder as data.reg_data_dir."
            )
        if child.path.name.casefold().replace("_", " ") in ASIDE and len(self.found.pictures) > before:
            self.found.notes.append(
                f"The pictures in {self._shown(child.path)}/ are trained on like the others; "
                "if they were put aside, move that folder away."
            )
        if masked is None and (of := _masked_by_name(child.path.name)) and len(self.found.pictures) > before:
            self.found.notes.append(
                f"{self._shown(child.path)}/ is named as a folder of masks, but there is no folder {shown(of)}/ "
                "beside it that they could belong to: its pictures are trained on; if they are masks, move it away."
            )

    def _pictures(self, here: _Listing) -> list[Path]:
        """The picture files in a folder; other files that could be taken for pictures are recorded as left out."""
        pictures, loras = [], {os.path.splitext(name)[0] for name in here.files if name.endswith(".safetensors")}
        for name in here.files:
            path = here.path / name
            reason = why_no_picture(path)
            if reason is None:
                continue
            if reason == "" and path.stem.removesuffix(".preview") in loras:
                reason = CARDS
            if reason == "" and name in here.links and not self._may_read(path.resolve()):
                reason = FORBIDDEN
            if isinstance(reason, Reason):
                self._leave_out(reason, path)
            elif not is_text(str(path)):
                why = "its name, or its folder's, is not text (UTF-8); rename it"
                self.found.rejected.append(Rejected(Path(as_text(str(path))), why))
            else:
                pictures.append(path)
        return pictures

    def _without_masks(self, here: _Listing, pictures: list[Path], masked: _Masked | None) -> list[Path]:
        """The pictures that are not masks of another one: of one beside them, or of one that `masked` names."""
        rest, beside = [], _by_name(pictures)
        above = masked.by_name(here.path) if masked else {}
        masks: dict[Path, list[tuple[int, Path]]] = {}
        for path in pictures:
            match = _BESIDE.fullmatch(path.stem)
            name = (match["of"] or match["of_last"]).casefold() if match else ""
            kind = (match["kind"] or match["kind_first"]).lower() if match else masked.kind if masked else "mask"
            of = beside.get(name, []) or above.get(path.stem.casefold()) or above.get(name, [])
            if not of:
                rest.append(path)
                self._lonely += [path] if masked or (match and kind in MASK_ENDINGS) else []
                continue
            self._leave_out(MASKS if kind in MASK_ENDINGS else CONDITIONS, path)
            # with pictures in several folders it is unknown whose mask it is
            for picture in of if kind in MASK_ENDINGS and len({one.parent for one in of}) == 1 else ():
                masks.setdefault(picture, []).append((MASK_ENDINGS.index(kind), path))
        self.found.masks |= {of: min(found)[1] for of, found in masks.items() if of not in self.found.masks}
        return rest

    def _leave_out_files(self, reason: Reason, paths: list[Path]) -> None:
        for path in paths:
            self.found.pictures.remove(path)
            self._leave_out(reason, path)

    def _leave_out(self, reason: Reason, path: Path, count: int | None = None) -> None:
        """Count a file, or with `count` the content of a folder."""
        self.found.left_out.add(
            reason, self._shown(path) + ("" if count is None else "/"), 1 if count is None else count
        )

    def _shown(self, path: Path) -> str:
        return shown(path.relative_to(self.found.folder).as_posix())


def _by_name(pictures: Iterable[Path]) -> dict[str, list[Path]]:
    """Pictures by their names with and without the ending, in lower case."""
    named: dict[str, list[Path]] = {}
    for path in pictures:
        for name in (path.name, path.stem):
            named.setdefault(name.casefold(), []).append(path)
    return named


def _why_not(here: _Listing, name: str, project: bool) -> Reason | None:
    """Why the folder `name` is left out with all that is in it."""
    folded = name.casefold()
    if folded in LITTER:
        return LITTER[folded]
    if name.startswith("."):
        return DELETED if folded.startswith(".trash") else HIDDEN
    match = REPEATS.fullmatch(name)
    if match and int(match[1]) == 0:
        return ZERO
    if _is_reg(name) and (project or _has_repeats(here.path / name)):
        return REGULARISATION
    if project and folded not in IMAGES:
        return PROJECT
    if folded in SAMPLE and any(file.lower().endswith(LORA_FILES) for file in here.files):
        return SAMPLES
    return None


def _is_reg(name: str) -> bool:
    return re.sub("[- ]", "_", name.casefold()) in REG


def _is_project(here: _Listing) -> bool:
    """Whether this is kohya's project folder: `img` with `N_concept` folders beside `reg`, `model` or `log`.

    A folder `model` alone may well hold pictures of a fashion model.
    """
    names = {name.casefold(): name for name in here.folders}
    images = [names[name] for name in IMAGES & names.keys()]
    beside = any(_is_reg(name) or name.casefold() in OUTPUT for name in here.folders)
    return beside and any(_has_repeats(here.path / name) for name in images)


def _has_repeats(folder: Path) -> bool:
    try:
        with os.scandir(folder) as entries:
            return any(REPEATS.fullmatch(entry.name) and entry.is_dir() for entry in entries)
    except OSError:
        return False


def _count(folder: Path) -> int:
    """How many files below a folder are named as pictures; links are not followed, and what cannot be read counts as
    none."""
    return sum(
        os.path.splitext(name)[1].lower() in kinds.EXTENSIONS and not name.startswith("._")
        for _, _, names in os.walk(folder)
        for name in names
    )

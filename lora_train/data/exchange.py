"""Import and export datasets of other tools: a file of theirs becomes a folder of pictures with captions, or vice
versa.

kohya's metadata, dataset configs, imagefolders and webdataset shards; kohya's latents are handled in training
(`data.latent_files`).
"""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from lora_train.atomic import write_text, writing
from lora_train.captions.store import keep_backup
from lora_train.config import DataOptions
from lora_train.data.formats.dataset_toml import Subset, is_dataset_config, write_dataset_config
from lora_train.data.formats.imagefolder import write_imagefolder
from lora_train.data.formats.kohya_metadata import MetadataEntry, metadata_key, write_metadata
from lora_train.data.formats.webdataset import write_shard
from lora_train.data.scan import Manifest, Picture, scan
from lora_train.data.shards import unpack_shards
from lora_train.data.sources import IMAGEFOLDER, beside_captions, read_pictures
from lora_train.errors import LoraTrainError
from lora_train.pictures.finding import MASK_ENDINGS, REGULARISATION
from lora_train.pictures.neighbours import CAPTION_EXTENSIONS, caption_file

REPEATS = 1
"""Repeats of pictures for which nothing says how often they are repeated."""
TEXTS = (".jsonl", ".toml")
"""Files that a person may have written and that are replaced; kohya's metadata is merged with ours instead."""


def import_dataset(source: Path, target: Path, pictures: Path | None = None, tag: str = "") -> Manifest:
    """Copy the pictures that `source` names into `target`, as `N_concept` folders with captions in `.txt` files.

    `source` is kohya's metadata (`.json`), its dataset config (`.toml`, `.json`), a `metadata.jsonl`, a webdataset
    shard (`.tar`) or a folder; `pictures` is where metadata's pictures are (default: beside it). Returns what is there
    now, and what was skipped. Raises LoraTrainError, also when `target` is not empty.
    """
    if target.is_dir() and any(target.iterdir()):
        raise LoraTrainError("this folder is not empty.", str(target), "Name a new one; nothing is ever replaced.")
    if not source.exists():
        raise LoraTrainError("there is no such file or folder.", str(source))
    if source.suffix.lower() == ".tar":
        passed_over = unpack_shards([source], target)
        manifest = scan(target, tag, REPEATS)
    else:
        found = read_pictures(_named(source, pictures, tag), REPEATS)
        _copy(found, target)
        passed_over, manifest = found.rejected, scan(target, tag, REPEATS)
        manifest.left_out.add(REGULARISATION, source.name, len(found.pictures) - len(found.trained))
        manifest.notes += found.notes
        manifest.left_out.extend(found.left_out)
    manifest.rejected += passed_over
    return manifest


def export_dataset(folder: Path, file: Path, tag: str = "") -> Manifest:
    """Write another tool's file about the pictures below `folder`; the file's name selects the format (see EXPORTS).

    Returns the pictures, and what was skipped. Raises LoraTrainError, also for a name that selects none.
    """
    write = next((write for ending, write in EXPORTS.items() if file.name.lower().endswith(ending)), None)
    if write is None:
        known = ", ".join(f"{IMAGEFOLDER}" if ending == IMAGEFOLDER else f"*{ending}" for ending in EXPORTS)
        raise LoraTrainError("the name does not show which format is wanted.", str(file), f"One of: {known}.")
    captions, note = beside_captions(folder)
    manifest = scan(folder, tag, REPEATS, captions)
    manifest.notes += [note] if note else []
    if file.is_file() and file.suffix.lower() in TEXTS:
        manifest.notes.append(f"The previous {file.name} is kept as {keep_backup(file).name}.")
    write(manifest, file)
    return manifest


def _named(source: Path, pictures: Path | None, tag: str) -> DataOptions:
    if source.is_dir():
        return DataOptions(folder=str(source), tag=tag)
    if is_dataset_config(source):
        return DataOptions(dataset_config=str(source), tag=tag)
    return DataOptions(in_json=str(source), folder=str(pictures or source.parent), tag=tag)


def _copy(manifest: Manifest, target: Path) -> None:
    """Each picture under a unique name, hard-linked where possible; its caption and its mask beside it."""
    taken: set[Path] = set()
    for picture in manifest.trained:
        folder = target / f"{picture.repeats}_{picture.concept or 'pictures'}"
        stem, number = picture.path.stem, 2
        while (place := folder / stem.casefold()) in taken:
            stem, number = f"{picture.path.stem}-{number}", number + 1
        taken.add(place)
        file = folder / f"{stem}{picture.path.suffix}"
        _place(picture.path, file)
        write_text(file.with_suffix(CAPTION_EXTENSIONS[0]), f"{picture.caption}\n")
        if mask := manifest.beside.get(picture.path):
            _place(mask, file.with_name(f"{stem}-{MASK_ENDINGS[0]}{mask.suffix}"))


def _place(source: Path, file: Path) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(source.resolve(), file)
        except OSError:  # another disk, or a file system without links
            with source.open("rb") as data, writing(file, sync=False) as copy:
                shutil.copyfileobj(data, copy)
    except OSError as error:
        raise LoraTrainError(f"cannot copy the picture: {error.strerror}.", str(file), "Free space there.") from error


def _kohya(manifest: Manifest, file: Path) -> None:
    """Keys are full paths: every version of sd-scripts opens them."""
    entries = {
        metadata_key(one.path, manifest.folder, "path"): MetadataEntry(
            one.caption, train_resolution=(one.width, one.height), image_size=(one.width, one.height)
        )
        for one in manifest.pictures
    }
    write_metadata(file, entries)


def _imagefolder(manifest: Manifest, file: Path) -> None:
    write_imagefolder(file, {one.path: one.caption for one in manifest.pictures})


def _config(manifest: Manifest, file: Path) -> None:
    """One subset per folder; sd-scripts does not read sub-folders."""
    folders: dict[Path, list[Picture]] = {}
    for one in manifest.pictures:
        folders.setdefault(one.path.parent, []).append(one)
    write_dataset_config(file, [_subset(*item, manifest.notes) for item in folders.items()])


def _subset(folder: Path, pictures: list[Picture], notes: list[str]) -> Subset:
    captions = [file for one in pictures if (file := caption_file(one.path))]
    endings = Counter(file.suffix for file in captions).most_common()
    if len(endings) > 1:
        others = sum(count for _, count in endings[1:])
        notes.append(f"{folder.name}: {others} captions do not end in {endings[0][0]}; sd-scripts reads one kind.")
    return Subset(
        image_dir=str(folder.absolute()),
        num_repeats=pictures[0].repeats,
        class_tokens=pictures[0].concept,
        caption_extension=endings[0][0] if endings else CAPTION_EXTENSIONS[0],
    )


def _shard(manifest: Manifest, file: Path) -> None:
    write_shard(file, ((one.path, one.caption) for one in manifest.pictures))


EXPORTS: dict[str, Callable[[Manifest, Path], None]] = {
    IMAGEFOLDER: _imagefolder,
    ".json": _kohya,
    ".toml": _config,
    ".tar": _shard,
}
"""The function that writes files, by the endings of their names."""

"""What a run trains on, in whatever form: a folder, kohya's metadata or dataset config, an imagefolder."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from lora_train.config import DataOptions
from lora_train.config.table import RANGES
from lora_train.data.formats.dataset_toml import Subset, read_dataset_config
from lora_train.data.formats.imagefolder import read_imagefolder
from lora_train.data.formats.kohya_metadata import MetadataEntry, find_picture, read_metadata
from lora_train.data.matching import match_ends
from lora_train.data.regularisation import balanced
from lora_train.data.scan import (
    Manifest,
    Picture,
    captions_of,
    concept_of,
    counted,
    require_folder,
    require_pictures,
    scan,
    usable,
)
from lora_train.errors import LoraTrainError, Problem
from lora_train.links import OUT, MayRead, anywhere, leads_out
from lora_train.pictures.caption_content import content_notes
from lora_train.pictures.caption_reading import CaptionReader
from lora_train.pictures.finding import find
from lora_train.pictures.left_out import Reason, shown
from lora_train.pictures.neighbours import caption_file
from lora_train.pictures.strays import stray_notes
from lora_train.pictures.template import merge
from lora_train.pictures.texts import lines_of

IMAGEFOLDER = "metadata.jsonl"
OURS = {"batch_size": "train_batch_size"}
"""Our names of options that a dataset config names otherwise."""
UNMATCHED = Reason("entry of the metadata without a picture", "entries of the metadata without a picture")
UNREPEATED = Reason("folder with 0 repeats", "folders with 0 repeats")


def read_pictures(options: DataOptions, repeats: int, may_read: MayRead = anywhere) -> Manifest:
    """The pictures of a run with their captions; `repeats` applies where nothing else says how many.

    Raises LoraTrainError when there are none, when a file is not of the expected kind, and when it names folders that
    `may_read` refuses.
    """
    repeats = options.repeats or repeats
    if options.dataset_config:
        return _from_config(Path(options.dataset_config).expanduser(), options, may_read)
    folder = Path(options.folder).expanduser()
    if options.in_json:
        require_folder(folder)
        return _from_metadata(Path(options.in_json).expanduser(), folder, options, repeats, may_read)
    captions, note = beside_captions(folder, may_read)
    manifest = scan(folder, options.tag, repeats, captions, may_read, options)
    bare = any(one.path not in captions and caption_file(one.path) is None for one in manifest.pictures)
    manifest.notes += [*filter(None, [note]), *stray_notes(folder, bare, folder / IMAGEFOLDER)]
    return manifest


def beside_captions(folder: Path, may_read: MayRead = anywhere) -> tuple[Mapping[Path, str], str]:
    """Captions by picture from the folder's own `metadata.jsonl`, and a note where it, or part of it, is not used."""
    file = folder / IMAGEFOLDER
    if not file.is_file():
        return {}, ""
    if leads_out(file, may_read):
        return {}, f"{IMAGEFOLDER} is not used: it is {OUT}."
    try:
        found = read_imagefolder(file)
    except LoraTrainError as error:
        return {}, f"{IMAGEFOLDER} is not used: {error}"
    if not found.rejected:
        return found.captions, ""
    first = found.rejected[0]
    count = counted(len(found.rejected), "line")
    return found.captions, f"{IMAGEFOLDER}: {count} not used ({shown(first.path.name)}: {first.reason})."


def _from_metadata(file: Path, folder: Path, options: DataOptions, repeats: int, may_read: MayRead) -> Manifest:
    """Only the pictures that the file names, as in sd-scripts."""
    manifest = Manifest(folder)
    captions = (
        _imagefolder(file, manifest) if file.suffix.lower() == ".jsonl" else _kohya(file, folder, manifest, may_read)
    )
    tag, reader = options.tag, CaptionReader(may_read, options.enable_wildcard)
    for path, size in usable(sorted(captions), manifest):
        own_repeats, concept = concept_of(path.parent.name)
        caption = reader.line(path, captions[path])
        lines = captions_of([caption, *reader.others], tag, suffix=options.caption_suffix)
        manifest.pictures.append(Picture(path, *size, lines[0], concept, own_repeats or repeats, others=lines[1:]))
    manifest.notes += reader.notes() + content_notes(manifest.captions(), tag, options)
    require_pictures(manifest)
    return manifest


def _imagefolder(file: Path, manifest: Manifest) -> Mapping[Path, str]:
    found = read_imagefolder(file)
    manifest.rejected += found.rejected
    return found.captions


def _kohya(file: Path, folder: Path, manifest: Manifest, may_read: MayRead) -> Mapping[Path, str]:
    entries = read_metadata(file)
    found = {key: picture for key in entries if (picture := find_picture(key, folder))}
    lost = [key for key in entries if key not in found]
    if lost:  # written on another computer, or before the folder was moved
        taken = set(found.values())
        rest = [path for path in find(folder, may_read=may_read).pictures if path not in taken]
        found |= match_ends((key for key in lost if ".." not in re.split(r"[\\/]", key)), rest, folder)
    for key in lost:
        if key not in found:
            manifest.left_out.add(UNMATCHED, shown(re.split(r"[\\/]", key)[-1] or key))
    return {picture: _joined(entries[key]) for key, picture in found.items()}


def _joined(entry: MetadataEntry) -> str:
    """Caption and tags; every line of a caption gets the tags, as in sd-scripts."""
    return "\n".join(merge("", line, [entry.tags]) for line in lines_of(entry.caption) or [""])


def _from_config(file: Path, options: DataOptions, may_read: MayRead) -> Manifest:
    """The pictures of all subsets, those of regularisation with repeats that match the others of their dataset.

    As in sd-scripts, a subset is a folder without its sub-folders."""
    config, tag = read_dataset_config(file), options.tag
    manifest, problems = Manifest(file.parent), list[Problem]()
    reader, of_datasets = CaptionReader(may_read, options.enable_wildcard), dict[int, list[Picture]]()
    for subset in config.subsets:
        if subset.num_repeats < 1:
            manifest.left_out.add(UNREPEATED, shown(subset.image_dir) + "/")
            continue
        folder = _beside(file, subset.image_dir or str(Path(subset.metadata_file).parent))
        try:
            if not may_read(folder) or (subset.metadata_file and not may_read(_beside(file, subset.metadata_file))):
                raise LoraTrainError("is outside the folders that may be used from this page.", str(folder))
            require_folder(folder)
            pictures = _of_subset(manifest, subset, folder, file, options, reader)
            of_datasets.setdefault(subset.dataset, []).extend(pictures)
        except LoraTrainError as error:
            problems += error.problems
    for pictures in of_datasets.values():
        trained, reg = ([one for one in pictures if one.reg is kind] for kind in (False, True))
        kept, note = balanced(trained, reg)
        manifest.pictures += [*trained, *kept]
        if reg:
            manifest.notes.append(f"{counted(len(kept), 'picture')} are used as regularisation pictures{note}.")
    if problems:
        raise LoraTrainError.of(problems)
    if config.ignored:
        manifest.notes.append(f"Ignored in {file.name}: {', '.join(config.ignored)}.")
    manifest.notes += reader.notes() + content_notes(
        [(one.path, one.caption) for one in manifest.trained], tag, options
    )
    if not manifest.trained:
        manifest.pictures.clear()
    require_pictures(manifest)
    return manifest


def _of_subset(
    manifest: Manifest,
    subset: Subset,
    folder: Path,
    file: Path,
    options: DataOptions,
    reader: CaptionReader,
) -> list[Picture]:
    """The pictures of a subset; what is left out goes into `manifest`. Raises LoraTrainError."""
    own = _own(subset, options, file)
    if subset.metadata_file:
        texts = _kohya(_beside(file, subset.metadata_file), folder, manifest, reader.may_read)
        captions = {path: [reader.line(path, text), *reader.others] for path, text in texts.items()}
    else:
        looked = find(folder, deep=False, may_read=reader.may_read)
        manifest.left_out.extend(looked.left_out)
        manifest.rejected += looked.rejected
        manifest.beside = {**manifest.beside, **looked.masks}
        captions = {}
        for path in looked.pictures:
            caption = reader.read(path, (subset.caption_extension,))
            captions[path] = [subset.class_tokens if caption is None else caption, *reader.others]
    tag, suffix = "" if subset.is_reg else options.tag, subset.caption_suffix or options.caption_suffix
    pictures = []
    for path, size in usable(sorted(captions), manifest):
        lines = captions_of(captions[path], tag, subset.caption_prefix, suffix)
        concept = concept_of(folder.name)[1]
        picture = Picture(path, *size, lines[0], concept, subset.num_repeats, others=lines[1:])
        pictures.append(replace(picture, reg=subset.is_reg, weight=subset.loss_weight, own=own))
    return pictures


def _own(subset: Subset, options: DataOptions, file: Path) -> tuple[tuple[str, Any], ...]:
    """The options that the subset sets for its pictures. Raises LoraTrainError with all that are out of range."""
    values = {OURS.get(name, name): value for name, value in subset.own.items()}
    if subset.resolution:
        width, height = subset.resolution
        values |= {"resolution": width, "height": None if width == height else height}
        sides = {"min_bucket_reso": max(8, min(width, height) // 2), "max_bucket_reso": 2 * max(width, height)}
        values = {name: side for name, side in sides.items() if getattr(options, name) is None} | values
    ranges = {name: RANGES.get(f"data.{name}") for name, value in values.items() if value is not None}
    problems = [
        Problem(f"{values[name]:g} is out of range.", f"{file.name}: {subset.where}.{name}", f"{low:g} to {high:g}.")
        for name, (low, high) in ((name, one) for name, one in ranges.items() if one)
        if not low <= values[name] <= high
    ]
    if problems:
        raise LoraTrainError.of(problems)
    return tuple(sorted(values.items()))


def _beside(file: Path, named: str) -> Path:
    """A path in the config: as it is, like sd-scripts; else relative to the config."""
    path = Path(named).expanduser()
    return path if path.exists() or path.is_absolute() else file.parent / path

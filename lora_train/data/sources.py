"""What a run trains on, in whatever form: a folder, kohya's metadata or dataset config, an imagefolder."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path

from lora_train.config import DataOptions
from lora_train.data.formats.dataset_toml import Subset, read_dataset_config
from lora_train.data.formats.imagefolder import read_imagefolder
from lora_train.data.formats.kohya_metadata import MetadataEntry, find_picture, read_metadata
from lora_train.data.matching import match_ends
from lora_train.data.scan import Manifest, Picture, concept_of, counted, require_folder, require_pictures, scan, usable
from lora_train.errors import LoraTrainError, Problem
from lora_train.links import OUT, MayRead, anywhere, leads_out
from lora_train.pictures.caption_content import content_notes
from lora_train.pictures.caption_reading import CaptionReader
from lora_train.pictures.captions import with_tag
from lora_train.pictures.finding import find
from lora_train.pictures.left_out import Reason, shown
from lora_train.pictures.neighbours import caption_file
from lora_train.pictures.strays import stray_notes
from lora_train.pictures.template import merge
from lora_train.pictures.texts import lines_of

IMAGEFOLDER = "metadata.jsonl"
HONOURED = (
    *("where", "image_dir", "metadata_file", "num_repeats", "class_tokens", "caption_extension"),
    *("caption_prefix", "caption_suffix"),
)
"""What a subset of a dataset config sets here; the rest comes from the run's own options."""
REGULARISATION = Reason("folder of regularisation pictures", "folders of regularisation pictures")
UNMATCHED = Reason("entry of the metadata without a picture", "entries of the metadata without a picture")
UNREPEATED = Reason("folder with 0 repeats", "folders with 0 repeats")


def read_pictures(options: DataOptions, repeats: int, may_read: MayRead = anywhere) -> Manifest:
    """The pictures of a run with their captions; `repeats` applies where nothing else says how many.

    Raises LoraTrainError when there are none, when a file is not of the expected kind, and when it names folders that
    `may_read` refuses.
    """
    repeats = options.repeats or repeats
    if options.dataset_config:
        return _from_config(Path(options.dataset_config).expanduser(), options.tag, may_read)
    folder = Path(options.folder).expanduser()
    if options.in_json:
        require_folder(folder)
        return _from_metadata(Path(options.in_json).expanduser(), folder, options.tag, repeats, may_read)
    captions, note = beside_captions(folder, may_read)
    manifest = scan(folder, options.tag, repeats, captions, may_read)
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


def _from_metadata(file: Path, folder: Path, tag: str, repeats: int, may_read: MayRead) -> Manifest:
    """Only the pictures that the file names, as in sd-scripts."""
    manifest = Manifest(folder)
    captions = (
        _imagefolder(file, manifest) if file.suffix.lower() == ".jsonl" else _kohya(file, folder, manifest, may_read)
    )
    reader = CaptionReader(may_read)
    for path, size in usable(sorted(captions), manifest):
        own_repeats, concept = concept_of(path.parent.name)
        caption = with_tag(tag, reader.line(path, captions[path]))
        manifest.pictures.append(Picture(path, *size, caption, concept, own_repeats or repeats))
    manifest.notes += reader.notes() + content_notes(manifest.captions(), tag)
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


def _from_config(file: Path, tag: str, may_read: MayRead) -> Manifest:
    """The pictures of all subsets. As in sd-scripts, a subset is a folder without its sub-folders."""
    config = read_dataset_config(file)
    manifest, problems = Manifest(file.parent), list[Problem]()
    ignored, reader = [*config.ignored], CaptionReader(may_read)
    for subset in config.subsets:
        ignored += _not_honoured(subset)
        if subset.is_reg or subset.num_repeats < 1:
            manifest.left_out.add(REGULARISATION if subset.is_reg else UNREPEATED, shown(subset.image_dir) + "/")
            continue
        folder = _beside(file, subset.image_dir or str(Path(subset.metadata_file).parent))
        try:
            if not may_read(folder) or (subset.metadata_file and not may_read(_beside(file, subset.metadata_file))):
                raise LoraTrainError("is outside the folders that may be used from this page.", str(folder))
            require_folder(folder)
            _add_subset(manifest, subset, folder, file, tag, reader)
        except LoraTrainError as error:
            problems += error.problems
    if problems:
        raise LoraTrainError.of(problems)
    if ignored:
        manifest.notes.append(f"Ignored in {file.name}: {', '.join(ignored)}.")
    manifest.notes += reader.notes() + content_notes(manifest.captions(), tag)
    require_pictures(manifest)
    return manifest


def _add_subset(manifest: Manifest, subset: Subset, folder: Path, file: Path, tag: str, reader: CaptionReader) -> None:
    if subset.metadata_file:
        captions = _kohya(_beside(file, subset.metadata_file), folder, manifest, reader.may_read)
    else:
        found = find(folder, deep=False, may_read=reader.may_read)
        manifest.left_out.extend(found.left_out)
        manifest.rejected += found.rejected
        manifest.beside = {**manifest.beside, **found.masks}
        read = ((path, reader.read(path, (subset.caption_extension,))) for path in found.pictures)
        captions = {path: subset.class_tokens if caption is None else caption for path, caption in read}
    for path, size in usable(sorted(captions), manifest):
        parts = (subset.caption_prefix.strip(), reader.line(path, captions[path]), subset.caption_suffix.strip())
        caption = with_tag(tag, " ".join(part for part in parts if part))
        manifest.pictures.append(Picture(path, *size, caption, concept_of(folder.name)[1], subset.num_repeats))


def _not_honoured(subset: Subset) -> list[str]:
    plain = Subset()
    return [
        f"{subset.where}.{field.name}"
        for field in fields(Subset)
        if field.name not in (*HONOURED, "is_reg") and getattr(subset, field.name) != getattr(plain, field.name)
    ]


def _beside(file: Path, named: str) -> Path:
    """A path in the config: as it is, like sd-scripts; else relative to the config."""
    path = Path(named).expanduser()
    return path if path.exists() or path.is_absolute() else file.parent / path

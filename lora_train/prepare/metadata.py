"""The result of a preparation as kohya's metadata file, for sd-scripts and for us.

Keys are full paths: the design's `<concept folder>/<stem>` is what older sd-scripts complete with an extension, but
those of 2026 open a key as it is; both understand a full path.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from lora_train.data.buckets import Size, make_buckets, place
from lora_train.data.formats.kohya_metadata import MetadataEntry, Origin, read_metadata, write_metadata
from lora_train.pictures.captions import with_tag
from lora_train.pictures.opening import BrokenPicture, picture_size
from lora_train.prepare.report import Entry

METADATA = "metadata.json"


def write_prepared(work: Path, entries: Iterable[Entry], target: int, tag: str) -> Path:
    """Write `metadata.json` (and `metadata.rejected.json`) below `work`, atomically. Returns the former.

    `train_resolution` is the picture's bucket in a training at the target size; a run corrects it.
    """
    buckets = make_buckets((target, target), max(64, target // 2), target * 2, 64)
    written = {}
    for entry in entries:
        key = str((work / entry.output).absolute()) if entry.verdict.kept else _key_of_rejected(entry)
        size = _size_of(work / entry.output) if entry.verdict.kept else None
        written[key] = MetadataEntry(
            caption="" if entry.tags and not entry.caption else with_tag(tag, entry.caption or entry.text),
            tags=",".join(_tag_first(tag, entry.tags)),
            train_resolution=place(size, buckets).bucket if size else None,
            image_size=size,
            origin=_origin(entry),
        )
    write_metadata(work / METADATA, written)
    return work / METADATA


def correct_resolutions(file: Path, buckets: Mapping[Path, Size]) -> None:
    """Record the pictures' actual buckets in a training. Raises LoraTrainError."""
    known = read_metadata(file)
    changed = {
        key: MetadataEntry(entry.caption, entry.tags, bucket, entry.image_size, entry.origin)
        for key, entry in known.items()
        if (bucket := buckets.get(Path(key))) and bucket != entry.train_resolution
    }
    if changed:
        write_metadata(file, known | changed)


def _tag_first(tag: str, tags: list[str]) -> list[str]:
    """The activation tag's parts in front of the tags; nothing where there are no tags."""
    mine = [part.strip() for part in tag.split(",") if part.strip()]
    taken = {part.casefold() for part in mine}
    return [*mine, *(one for one in tags if one.casefold() not in taken)] if tags else []


def _origin(entry: Entry) -> Origin:
    view = entry.view
    scores = dict(view.scores) if view else {}
    if entry.similarity is not None:
        scores["similar"] = entry.similarity
    if view and view.confidence is not None:
        scores[view.operation] = view.confidence
    return Origin(
        source=str(entry.path.absolute()),
        operation=view.operation if view else "",
        box=tuple(view.box) if view and view.box else None,
        scores={name: round(float(score), 6) for name, score in scores.items()},
        reason="" if entry.verdict.kept else entry.verdict.reason,
    )


def _key_of_rejected(entry: Entry) -> str:
    """A rejected view has no picture; the operation in the key distinguishes a rejected face from a rejected body."""
    operation = f" ({entry.view.operation})" if entry.view else ""
    return f"{entry.path.absolute()}{operation}"


def _size_of(picture: Path) -> Size | None:
    try:
        return picture_size(picture)
    except (BrokenPicture, OSError):
        return None

"""kohya's metadata file: captions, tags and sizes of pictures by key, with our additions under our own key.

sd-scripts takes every entry for a picture to train on, so what was rejected goes to a file of the same
shape beside it (`meta.json` and `meta.rejected.json`). How it finds the picture has changed: earlier versions
(0.8 and 0.9 were tried) append an extension to the key (style "stem"), those of 2026 open it as it is
("name"); both open a full path ("path"). The former take a picture's size from `train_resolution`, the latter
from `image_size`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePath
from typing import Any, Literal

from lora_train.atomic import write_json
from lora_train.data.buckets import Size
from lora_train.errors import LoraTrainError
from lora_train.pictures.kinds import EXTENSIONS
from lora_train.pictures.texts import decode_whole

OWN_KEY = "lora_train"
KeyStyle = Literal["stem", "name", "path"]


@dataclass(frozen=True)
class Origin:
    """Where a picture comes from; a `reason` says why it was rejected."""

    source: str = ""
    operation: str = ""
    box: tuple[float, ...] | None = None
    """Left, top, right, bottom in pixels of the source."""
    scores: dict[str, float] = field(default_factory=dict)
    reason: str = ""


@dataclass(frozen=True)
class MetadataEntry:
    """One picture; `tags` are comma-separated, sizes are width and height."""

    caption: str = ""
    tags: str = ""
    train_resolution: Size | None = None
    image_size: Size | None = None
    origin: Origin | None = None


def metadata_key(picture: Path, folder: Path, style: KeyStyle = "stem") -> str:
    """The key of a picture below `folder`: `<concept folder>/<stem>`, with its extension, or its full path."""
    if style == "path":
        return str(picture.absolute())
    relative = picture.relative_to(folder)
    return (relative.with_suffix("") if style == "stem" else relative).as_posix()


def find_picture(key: str, folder: Path) -> Path | None:
    """The picture below `folder` that a key of any style names; None when there is none, or it is elsewhere."""
    plain = PurePath(key.replace("\\", "/"))
    candidates = [folder / plain, *(folder / f"{plain}{extension}" for extension in sorted(EXTENSIONS))]
    root = folder.resolve()
    for candidate in candidates:
        try:
            found = candidate.suffix.lower() in EXTENSIONS and candidate.is_file()
            if found and candidate.resolve().is_relative_to(root):
                return candidate
        except (OSError, ValueError):  # a name too long, or with a NUL in it
            continue
    return None


def rejected_file(file: Path) -> Path:
    """The file beside `file` that lists what was rejected."""
    return file.with_suffix(f".rejected{file.suffix}")


def read_metadata(file: Path) -> dict[str, MetadataEntry]:
    """Entries by key, ours or kohya's. Raises LoraTrainError when the file is not such metadata."""
    return {key: _entry(raw, f"{file}: {key}") for key, raw in _read(file).items()}


def write_metadata(file: Path, entries: Mapping[str, MetadataEntry]) -> None:
    """Write `entries` atomically; what other programs put into the file is kept.

    Kept are keys of an entry that are not ours, and entries without our key. Entries that we wrote
    and that are no longer in `entries` are removed. Raises LoraTrainError when an existing file is not metadata.
    """
    rejected = {key: entry for key, entry in entries.items() if entry.origin and entry.origin.reason}
    beside = rejected_file(file)
    if rejected or beside.exists():
        write_json(beside, _merged(beside, rejected))
    write_json(file, _merged(file, {key: entry for key, entry in entries.items() if key not in rejected}))


def _merged(file: Path, entries: Mapping[str, MetadataEntry]) -> dict[str, Any]:
    old = _read(file, "Correct it, or move it away so that a new one is written.") if file.exists() else {}
    kept = {key: raw for key, raw in old.items() if key in entries or OWN_KEY not in raw}
    for key, entry in entries.items():
        # an empty caption is left out: sd-scripts up to 0.9 would begin the joined text with a comma
        raw: dict[str, Any] = {name: text for name in ("caption", "tags") if (text := getattr(entry, name))}
        raw |= {name: list(size) for name in ("train_resolution", "image_size") if (size := getattr(entry, name))}
        before = {name: value for name, value in kept.get(key, {}).items() if name not in ("caption", "tags")}
        own = before.get(OWN_KEY)
        own = (own if isinstance(own, dict) else {}) | asdict(entry.origin or Origin())
        kept[key] = raw | {name: value for name, value in before.items() if name not in raw} | {OWN_KEY: own}
    return kept


def _read(file: Path, fix: str = "Give a .json file by sd-scripts or LoRA Train.") -> dict[str, dict[str, Any]]:
    try:
        data = json.loads(decode_whole(file.read_bytes()))
        if not isinstance(data, dict):
            raise ValueError("it is not a table")
        for key, raw in data.items():
            if not isinstance(raw, dict):
                raise ValueError(f"its entry {key!r} is not a table")
    except OSError as error:
        raise LoraTrainError(f"cannot read the metadata: {error.strerror}.", str(file)) from error
    except (ValueError, RecursionError) as error:
        raise LoraTrainError(f"this is not a metadata file ({error}).", str(file), fix) from error
    return data


def _entry(raw: dict[str, Any], where: str) -> MetadataEntry:
    caption, tags = first_text(raw.get("caption") or ""), first_text(raw.get("tags") or "", joined=True)
    if not isinstance(caption, str) or not isinstance(tags, str):
        raise LoraTrainError("caption and tags must be text.", where, "Correct it in the file.")
    return MetadataEntry(
        caption,
        tags,
        _size(raw.get("train_resolution"), "train_resolution", where),
        _size(raw.get("image_size"), "image_size", where),
        _origin(raw[OWN_KEY], where) if OWN_KEY in raw else None,
    )


def first_text(value: object, joined: bool = False) -> object:
    """The first of a list of texts, which are alternatives; or with `joined` all, where each is a single tag."""
    if not isinstance(value, list) or not value or not all(isinstance(one, str) for one in value):
        return value
    return ", ".join(value) if joined and not any("," in one for one in value) else value[0]


def _size(value: object, name: str, where: str) -> Size | None:
    if value is None:
        return None
    if isinstance(value, list) and len(value) == 2 and all(type(side) is int and side > 0 for side in value):
        return value[0], value[1]
    raise LoraTrainError(f"{name} must be width and height in pixels.", where, "Correct it in the file.")


def _origin(raw: object, where: str) -> Origin:
    table = raw if isinstance(raw, dict) else {}
    texts = [table.get(name, "") for name in ("source", "operation", "reason")]
    box, scores = table.get("box"), table.get("scores", {})
    right = (
        isinstance(raw, dict)
        and all(isinstance(text, str) for text in texts)
        and (box is None or (isinstance(box, list) and all(map(_is_number, box))))
        and isinstance(scores, dict)
        and all(map(_is_number, scores.values()))
    )
    if not right:
        raise LoraTrainError(f"{OWN_KEY} is not as LoRA Train writes it.", where, f"Remove {OWN_KEY} from this entry.")
    return Origin(texts[0], texts[1], tuple(box) if box is not None else None, scores, texts[2])


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)

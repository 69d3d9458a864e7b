"""How often each tag occurs in the captions, as recorded in a LoRA's metadata."""

from __future__ import annotations

from collections import Counter

from lora_train.data.scan import Manifest

MOST = 8_000_000
"""Most bytes of tags in a LoRA's metadata. The header of a safetensors file may have 100 MB, but a WebUI reads it
whenever it lists its files; half a million captions of thirty common tags fit."""


def tag_frequency(manifest: Manifest) -> dict[str, dict[str, int]]:
    """Per folder name, how often each comma-separated part of the captions occurs (kohya's metadata).

    Where that is more than MOST bytes, only the most frequent.
    """
    return _tag_statistics(manifest)[0]


def tag_note(manifest: Manifest) -> str:
    """A note on tag statistics that do not fit into the LoRA's file; "" where all fit."""
    kept, there = _tag_statistics(manifest)
    count = sum(map(len, kept.values()))
    if count == there:
        return ""
    return (
        f"The captions have {there:,} different tags, too many for a LoRA's metadata: its tag statistics "
        f"(ss_tag_frequency) will hold the {count:,} most frequent. The training itself is not affected."
    )


def _tag_statistics(manifest: Manifest) -> tuple[dict[str, dict[str, int]], int]:
    """The tags that are kept, by folder and with their counts, and how many there were."""
    found: dict[str, Counter[str]] = {}
    for picture in (one for one in manifest.pictures if not one.again):
        counts = found.setdefault(picture.path.parent.name, Counter())
        counts.update(part.strip() for part in picture.caption.split(",") if part.strip())
    there = sum(map(len, found.values()))
    if sum(_room(tag) for counts in found.values() for tag in counts) <= MOST:
        return {name: dict(counts) for name, counts in found.items()}, there
    kept: dict[str, dict[str, int]] = {name: {} for name in found}
    room = MOST
    ordered = sorted(((-count, name, tag) for name, counts in found.items() for tag, count in counts.items()))
    for negative, name, tag in ordered:
        if _room(tag) <= room:
            room -= _room(tag)
            kept[name][tag] = -negative
    return kept, there


def _room(tag: str) -> int:
    """Approximate bytes of a tag in the metadata, which are JSON within JSON."""
    return len(tag.encode()) + tag.count('"') * 3 + tag.count("\\") * 3 + 12

"""Captions longer than the base model reads: they are reported, and the tag is moved to where it is read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from lora_train.data.scan import Manifest, Picture
from lora_train.pictures.captions import kept_first, tag_first, up_to_tag

NAMED = 5


def longest_caption(manifest: Manifest, tokens: Callable[[str], int]) -> int:
    """The tokens of the longest caption."""
    longest = 0
    for caption in {picture.caption for picture in manifest.pictures}:
        if len(caption.encode()) > longest:  # a token is at least one byte
            longest = max(longest, tokens(caption))
    return longest


def fit_captions(
    manifest: Manifest, tag: str, shuffle: bool, keep_tokens: int, room: int, tokens: Callable[[str], int]
) -> list[str]:
    """Move the tag to the front of captions where it would be cut off. Returns notes on what is cut off.

    `room` is how many tokens the model reads, `tokens` counts those of a text, as the model's tokenizer does.
    """
    long: list[tuple[Picture, int]] = []
    moved = 0
    for number, picture in enumerate(manifest.pictures):
        if len(picture.caption.encode()) <= room:  # a token is at least one byte
            continue
        count = tokens(picture.caption)
        if count <= room:
            continue
        long.append((picture, count))
        if not picture.reg and not _is_read(tag, picture.caption, shuffle, keep_tokens, room, tokens):
            manifest.pictures[number] = replace(picture, caption=tag_first(tag, picture.caption))
            moved += 1
    return _notes(long, moved, len(manifest.pictures), tag, room, tokens(tag))


def _is_read(tag: str, caption: str, shuffle: bool, keep_tokens: int, room: int, tokens: Callable[[str], int]) -> bool:
    """Whether the whole tag is among the tokens that are read, whatever the order of the parts."""
    if shuffle:
        parts, kept = kept_first(caption, keep_tokens, tag)
        caption = ", ".join(parts[:kept])
    read = up_to_tag(tag, caption)
    return read is not None and tokens(read) <= room


def _notes(
    long: list[tuple[Picture, int]], moved: int, pictures: int, tag: str, room: int, tag_length: int
) -> list[str]:
    notes = []
    if tag_length > room:
        notes.append(f"The tag is {tag_length} tokens long, of which the model reads {room}.")
    if not long:
        return notes
    longest = sorted(long, key=lambda one: -one[1])
    listed = ", ".join(f"{picture.path.name}: {count}" for picture, count in longest[:NAMED])
    more = f" and {len(long) - NAMED} more" if len(long) > NAMED else ""
    is_are = "is" if len(long) == 1 else "are"
    text = (
        f"{len(long)} of {pictures} captions {is_are} longer than the {room} tokens that the model reads "
        f"({listed}{more}). The rest is cut off."
    )
    if moved and tag:
        text += f" In {moved} of them the tag was in the rest, and is moved to the front."
    return [*notes, text]

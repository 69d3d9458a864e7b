"""Captions longer than the base model reads: they are reported, and the tag is moved to where it is read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from lora_train.config import DataOptions
from lora_train.data.scan import Manifest, Picture
from lora_train.pictures.captions import tag_first, up_to_tag
from lora_train.pictures.varying import kept_in_front, longest_forms

NAMED = 5


def longest_caption(manifest: Manifest, data: DataOptions, tokens: Callable[[str], int]) -> int:
    """The tokens of the longest text that a caption can become."""
    longest = 0
    for text in {text for one in manifest.pictures for text in longest_forms(one.lines, one.options(data))}:
        if len(text.encode()) > longest:  # a token is at least one byte
            longest = max(longest, tokens(text))
    return longest


def fit_captions(manifest: Manifest, data: DataOptions, room: int, tokens: Callable[[str], int]) -> list[str]:
    """Move the tag to the front of captions where it would be cut off. Returns notes on what is cut off.

    `room` is how many tokens the model reads, `tokens` counts those of a text, as the model's tokenizer does.
    """
    long: list[tuple[Picture, int]] = []
    moved = 0
    for number, picture in enumerate(manifest.pictures):
        options = picture.options(data)
        forms = longest_forms(picture.lines, options)
        if max(len(form.encode()) for form in forms) <= room:  # a token is at least one byte
            continue
        counts = list(map(tokens, forms))
        if max(counts) <= room:
            continue
        long += [] if picture.again else [(picture, max(counts))]
        lines = [line if _is_read(line, options, room, tokens) else tag_first(data.tag, line) for line in picture.lines]
        if not picture.reg and lines != [*picture.lines]:
            manifest.pictures[number] = replace(picture, caption=lines[0], others=tuple(lines[1:]))
            moved += not picture.again
    once = [picture for picture in manifest.pictures if not picture.again]
    return _notes(long, moved, len(once), data.tag, room, tokens(data.tag))


def _is_read(caption: str, data: DataOptions, room: int, tokens: Callable[[str], int]) -> bool:
    """Whether the whole tag is among the tokens that are read, whatever the order of the parts."""
    (longest,) = longest_forms([caption], data)
    if tokens(longest) <= room:
        return True
    if data.shuffle_caption:
        (marked,) = longest_forms([caption], replace(data, keep_tokens_separator=""))
        longest = kept_in_front(marked, data)
    read = up_to_tag(data.tag, longest)
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

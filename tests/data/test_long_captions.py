from __future__ import annotations

import random
from pathlib import Path

import pytest

from lora_train.config import DataOptions
from lora_train.data.long_captions import fit_captions
from lora_train.data.scan import Manifest, Picture
from lora_train.pictures.captions import kept_first, up_to_tag
from lora_train.pictures.varying import vary

ROOM = 10


def words(text: str) -> int:
    """A tokenizer of words and commas."""
    return len(text.replace(",", " , ").split())


def fitted(tag: str, *captions: str, shuffle: bool = False, keep: int = 0) -> tuple[list[str], list[str]]:
    """The captions, and the notes."""
    pictures = [Picture(Path(f"{n}.png"), 64, 64, caption, "x", 1) for n, caption in enumerate(captions)]
    manifest = Manifest(Path(), pictures)
    notes = fit_captions(manifest, DataOptions(tag=tag, shuffle_caption=shuffle, keep_tokens=keep), ROOM, words)
    return [picture.caption for picture in manifest.pictures], notes


LONG = "a soft evening light falls across an old wooden table with books"


@pytest.mark.parametrize(
    ("tag", "caption", "expected"),
    [
        ("sks", f"{LONG} of sks", f"sks, {LONG} of sks"),
        ("sks", f"{LONG}, sks", f"sks, {LONG}"),
        ("sks", f"{LONG}, SKS, hat", f"sks, {LONG}, hat"),
        ("sks", f"photo of sks in {LONG}", f"photo of sks in {LONG}"),
        ("sks", f"photo of sks's house in {LONG}", f"photo of sks's house in {LONG}"),
        ("sara, woman", f"sara in {LONG}, woman", f"sara, woman, sara in {LONG}"),
        ("red sks", f"sks in {LONG}, a red sks", f"red sks, sks in {LONG}, a red sks"),
        ("", f"{LONG}, sks", f"{LONG}, sks"),
        ("sks", "short, sks", "short, sks"),
        ("sks", "one two three four five six seven eight nine sks and no more", None),
        ("red sks", f"{LONG} and red sks", f"red sks, {LONG} and red sks"),
    ],
)  # fmt: skip
def test_the_tag_is_among_what_is_read(tag: str, caption: str, expected: str | None) -> None:
    (made,), notes = fitted(tag, caption)
    assert made == (expected or caption)
    read = up_to_tag(tag, made)
    assert read is not None and words(read) <= ROOM
    assert bool(notes) == (words(caption) > ROOM)


def test_what_is_cut_is_counted_and_named() -> None:
    captions, notes = fitted("sks", *(["sks, hat"] * 2), *([f"sks, {LONG}"] * 6), f"{LONG} {LONG} sks")
    assert captions[-1].startswith("sks, a soft")
    assert notes == [
        "7 of 9 captions are longer than the 10 tokens that the model reads (8.png: 25, 2.png: 14, 3.png: 14, "
        "4.png: 14, 5.png: 14 and 2 more). The rest is cut off. "
        "In 1 of them the tag was in the rest, and is moved to the front."
    ]
    assert fitted("sks", "sks, hat") == (["sks, hat"], [])
    assert fitted("a " * 11, "hat")[1] == ["The tag is 11 tokens long, of which the model reads 10."]


@pytest.mark.parametrize(
    ("tag", "caption", "keep"),
    [
        ("sks", f"hat, red hair, {LONG}, sks, park", 0),
        ("sks", f"hat, red hair, photo of sks, {LONG}", 1),
        ("sks", f"hat, {LONG} of sks, x, y, z", 2),
        ("sara woman", f"hat, {LONG}, sara, woman", 0),
        ("sara, woman", f"a, b, {LONG}, woman, d, sara", 1),
        ("sks", f"{LONG}, {LONG}, hat, x, y, sks", 2),
    ],
)
def test_the_tag_is_read_in_whatever_order_the_parts_come(tag: str, caption: str, keep: int) -> None:
    (made,), _ = fitted(tag, caption, shuffle=True, keep=keep)
    data = DataOptions(tag=tag, shuffle_caption=True, keep_tokens=keep)
    orders = {vary([made], random.Random(seed), data) for seed in range(40)}
    assert len(orders) > 1
    for order in orders:
        read = up_to_tag(tag, order)
        assert read is not None and words(read) <= ROOM


def test_keep_tokens_covers_the_tag_and_what_is_in_front() -> None:
    assert kept_first("a, b, photo of sks, c", 1, "sks") == (["photo of sks", "a", "b", "c"], 2)
    assert kept_first("a, photo of sks, sks, c", 0, "sks") == (["sks", "a", "photo of sks", "c"], 1)
    assert kept_first("sks, a, b", 2, "sks") == (["sks", "a", "b"], 2)
    assert kept_first("a, b", 5, "") == (["a", "b"], 2)
    assert kept_first("a, b", 0, "other") == (["a", "b"], 0)

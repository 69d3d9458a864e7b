"""The trigger words of a LoRA, found in its captions when no tag was given."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile

from lora_train.data.scan import Manifest, Picture

MAX_WORDS = 4
"""A longer common beginning is a phrase of the captions' style rather than a name."""

_FUNCTION_WORDS = frozenset(
    ("a", "an", "the", "of", "on", "in", "at", "with", "and", "by", "for", "from", "to", "is", "are", "as", "wearing")
)
_GENERIC = frozenset(
    ("photo", "photograph", "picture", "image", "portrait", "drawing", "illustration", "1girl", "1boy", "solo")
)
"""Words that captions begin with whatever the picture."""


def trigger_of(manifest: Manifest, tag: str) -> str:
    """The run's tag; without one, what all captions of the concept with the most repeats begin with, or "".

    That is the concept's name where its captions begin with it (kohya's `10_sks`), else up to MAX_WORDS common words
    before the first comma, "on", "a" or the like.
    """
    trained = manifest.trained
    if tag.strip() or not trained:
        return tag.strip()
    most = max(picture.repeats for picture in trained)
    main = [picture for picture in trained if picture.repeats == most]
    return _concept(main) or _common(main)


def _concept(pictures: Sequence[Picture]) -> str:
    concepts = {picture.concept for picture in pictures}
    name = next(iter(concepts))
    words = _folded(name.split())
    begins = all(_folded(picture.caption.replace(",", " ").split())[: len(words)] == words for picture in pictures)
    return name if len(concepts) == 1 and words and begins else ""


def _common(pictures: Sequence[Picture]) -> str:
    """Only for two or more pictures: the beginning of a single caption is all of it."""
    captions = [picture.caption.partition(",")[0].split() for picture in pictures]
    if len(captions) < 2:
        return ""
    same = takewhile(lambda words: len(set(words)) == 1, zip(*map(_folded, captions)))
    name = list(takewhile(lambda word: word not in _FUNCTION_WORDS, (words[0] for words in same)))
    if not name or len(name) > MAX_WORDS or name[0] in _GENERIC:
        return ""
    return " ".join(captions[0][: len(name)])


def _folded(words: Sequence[str]) -> list[str]:
    return [word.casefold() for word in words]

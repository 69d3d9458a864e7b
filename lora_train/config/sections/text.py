"""What becomes of a caption: how much of it is read, and how it changes from step to step. Part of the section
"data"."""

from __future__ import annotations

from dataclasses import dataclass

from lora_train.config.option import DATA, option
from lora_train.records.family import CHUNKS

CHUNK = 75
"""Tokens of a caption that a text encoder of CLIP reads at once."""
MOST_TOKENS = 3 * CHUNK


@dataclass(frozen=True)
class CaptionOptions:
    """The fields of the section "data" that concern captions."""

    max_token_length: int | None = option(
        None,
        "Caption length",
        f"how many tokens of a caption are read: {CHUNK}, {2 * CHUNK} or {MOST_TOKENS}, in chunks of {CHUNK} as in the "
        "WebUI",
        DATA,
        range=(CHUNK, MOST_TOKENS),
        unset="what the longest caption needs",
        metavar="TOKENS",
        kohya=("max_token_length",),
        needs=CHUNKS,
    )
    shuffle_caption: bool = option(
        False,
        "Shuffle captions",
        "shuffle the comma-separated parts of each caption",
        DATA,
        flags=("--shuffle",),
        kohya=("shuffle_caption",),
        metadata="ss_shuffle_caption",
    )
    keep_tokens: int = option(
        0,
        "Keep tokens",
        "keep this many caption parts in front when shuffling; the tag always stays",
        DATA,
        range=(0, 1000),
        metavar="N",
        kohya=("keep_tokens",),
        metadata="ss_keep_tokens",
    )
    caption_dropout_rate: float = option(
        0.0,
        "Caption dropout",
        "probability that a picture is trained with an empty caption",
        DATA,
        range=(0, 1),
        flags=("--caption-dropout",),
        metavar="P",
        kohya=("caption_dropout_rate",),
        metadata="ss_caption_dropout_rate",
    )

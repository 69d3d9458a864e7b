"""What becomes of a caption: how much of it is read, and how it changes from step to step. Part of the section
"data"."""

from __future__ import annotations

from dataclasses import dataclass

from lora_train.config.option import DATA, option
from lora_train.records.family import CHUNKS, WEIGHTED

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
    caption_suffix: str = option(
        "",
        "Caption suffix",
        "text behind every caption",
        DATA,
        metavar="TEXT",
        kohya=("caption_suffix",),
    )
    keep_tokens_separator: str = option(
        "",
        "Keep separator",
        "caption parts in front of this mark stay in front when shuffling, those behind a second one stay at the end; "
        "||| is usual",
        DATA,
        metavar="MARK",
        kohya=("keep_tokens_separator",),
    )
    secondary_separator: str = option(
        "",
        "Secondary separator",
        "caption parts joined by this mark are shuffled and dropped as one; ;;; is usual",
        DATA,
        metavar="MARK",
        kohya=("secondary_separator",),
    )
    enable_wildcard: bool = option(
        False,
        "Wildcards and lines",
        "draw one of a caption's lines each time, and one of each {a|b|c} in it; off: the first line, literally",
        DATA,
        kohya=("enable_wildcard",),
    )
    caption_tag_dropout_rate: float = option(
        0.0,
        "Tag dropout",
        "probability that a caption part is left out; the tag and the kept ones always stay",
        DATA,
        range=(0, 1),
        metavar="P",
        kohya=("caption_tag_dropout_rate",),
        metadata="ss_caption_tag_dropout_rate",
    )
    caption_dropout_every_n_epochs: int = option(
        0,
        "Epochs without captions",
        "train every Nth epoch with empty captions; 0: none",
        DATA,
        range=(0, 100_000),
        metavar="N",
        kohya=("caption_dropout_every_n_epochs",),
        metadata="ss_caption_dropout_every_n_epochs",
    )
    token_warmup_step: float = option(
        0.0,
        "Caption warm-up",
        "steps in which captions grow to their full length, part by part; below 1: this share of all steps",
        DATA,
        range=(0, 10_000_000),
        metavar="N",
        kohya=("token_warmup_step",),
    )
    token_warmup_min: int = option(
        1,
        "Caption warm-up's start",
        "number of caption parts at the start of the caption warm-up, besides the tag and the kept ones",
        DATA,
        range=(0, 1000),
        metavar="N",
        kohya=("token_warmup_min",),
    )
    weighted_captions: bool = option(
        False,
        "Weighted captions",
        "weights in captions such as (word:1.2) count as in a WebUI's prompts; off: they are read literally",
        DATA,
        kohya=("weighted_captions",),
        needs=WEIGHTED,
    )

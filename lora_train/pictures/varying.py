"""What a caption says at one look at its picture: one of its lines, wildcards, parts in another order, parts left out.

As sd-scripts does it (`BaseDataset.process_caption` in `library/train_util.py`), except that the tag always stays: its
parts are never shuffled, dropped or held back.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lora_train.config import DataOptions
from lora_train.pictures.captions import kept_first, up_to_tag, with_tag
from lora_train.pictures.weights import plain_words

_WILDCARD = re.compile(r"\{([^{}]+)\}")
_OPEN, _CLOSE = "\ue000", "\ue001"
"""Stand for `{{` and `}}`, which are braces and not a choice."""


@dataclass(frozen=True)
class Moment:
    """When a caption is shown: the epoch counts from 1, the steps done from 0."""

    epoch: int = 1
    step: int = 0
    steps: int = 1
    """Of the whole training."""


def vary(lines: Sequence[str], rng: random.Random, data: DataOptions, moment: Moment = Moment()) -> str:
    """The caption for one use of a picture; `lines` are its alternatives, of which there is at least one.

    Dropped captions are empty: classifier-free guidance needs some.
    """
    rate, every = data.caption_dropout_rate, data.caption_dropout_every_n_epochs
    if rate and rng.random() < rate:
        return ""
    if every and moment.epoch % every == 0:
        return ""
    caption = lines[0]
    if data.enable_wildcard:
        caption = caption if len(lines) == 1 else rng.choice(lines)
        caption = with_tag(data.tag, choose(caption, rng.choice))
    held = _held_back(data, moment)
    if not (data.shuffle_caption or data.caption_tag_dropout_rate or held is not None):
        return _separated(caption, data)
    first, rest, last = _parts(caption, data)
    if held is not None:
        rest = rest[: math.floor(held * (len(rest) - data.token_warmup_min)) + data.token_warmup_min]
    if data.shuffle_caption:
        rng.shuffle(rest)
    if data.caption_tag_dropout_rate:
        rest = [part for part in rest if rng.random() >= data.caption_tag_dropout_rate]
    return _secondary(", ".join([*first, *rest, *last]), data)


def settled(caption: str, data: DataOptions) -> str:
    """The caption without chance: the first of each choice, the marks of separators and weights gone."""
    text = choose(caption, lambda choices: choices[0]) if data.enable_wildcard else caption
    return plain_words(_separated(text, data)) if data.weighted_captions else _separated(text, data)


def longest_forms(lines: Sequence[str], data: DataOptions) -> list[str]:
    """The longest texts that the alternatives can become, for counting their tokens."""
    if not data.enable_wildcard:
        return [settled(lines[0], data)]
    return [settled(choose(line, lambda choices: max(choices, key=len)), data) for line in lines]


def kept_in_front(caption: str, data: DataOptions) -> str:
    """The parts of a caption that come first whatever the order of the others."""
    return ", ".join(_parts(caption, data)[0])


def choose(caption: str, pick: Callable[[Sequence[str]], str]) -> str:
    """The caption with `pick` of the choices in each `{a|b|c}`; `{{` and `}}` are braces.

    >>> choose("a {red|blue} hat, {{x}}", lambda choices: choices[-1])
    'a blue hat, {x}'
    """
    text = caption.replace("{{", _OPEN).replace("}}", _CLOSE)
    text = _WILDCARD.sub(lambda found: pick(found[1].split("|")).strip(), text)
    return text.replace(_OPEN, "{").replace(_CLOSE, "}")


def _held_back(data: DataOptions, moment: Moment) -> float | None:
    """The share of the warm-up that is done; None outside it."""
    length = data.token_warmup_step
    length = math.floor(length * moment.steps) if length < 1 else length
    return moment.step / length if moment.step < length else None


def _parts(caption: str, data: DataOptions) -> tuple[list[str], list[str], list[str]]:
    """The parts that stay in front, those that vary, and those that stay behind them."""
    mark = data.keep_tokens_separator
    if not mark or mark not in caption:
        parts, kept = kept_first(caption, data.keep_tokens, data.tag)
        return parts[:kept], parts[kept:], []
    front, _, behind = caption.partition(mark)
    middle, _, end = behind.partition(mark)
    first, last = kept_first(front, 0)[0], kept_first(end, 0)[0]
    staying = ", ".join([*first, *last])
    parts, kept = kept_first(middle, 0, "" if up_to_tag(data.tag, staying) is not None else data.tag)
    return [*parts[:kept], *first], parts[kept:], last


def _separated(caption: str, data: DataOptions) -> str:
    """The caption without the marks of separators."""
    mark = data.keep_tokens_separator
    if mark and mark in caption:
        caption = ", ".join(piece for piece in (one.strip(" ,") for one in caption.split(mark)) if piece)
    return _secondary(caption, data)


def _secondary(caption: str, data: DataOptions) -> str:
    """Parts that were one in shuffling and dropping are separated now."""
    mark = data.secondary_separator
    return ", ".join(one.strip() for one in caption.split(mark)) if mark and mark in caption else caption

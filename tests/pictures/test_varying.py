"""Captions at each look: against sd-scripts' own function, rewritten below as it is there, and by hand."""

from __future__ import annotations

import math
import random
import re
from collections import Counter
from typing import Any

import pytest

from lora_train.config import DataOptions
from lora_train.pictures.varying import Moment, choose, longest_forms, settled, vary


def options(**values: Any) -> DataOptions:
    return DataOptions(**values)


def looks(caption: str, data: DataOptions, moment: Moment = Moment(), count: int = 200) -> Counter[str]:
    return Counter(vary(caption.split("\n"), random.Random(seed), data, moment) for seed in range(count))


def as_kohya(caption: str, rng: random.Random, data: DataOptions, moment: Moment) -> str:
    """`BaseDataset.process_caption` of sd-scripts; its random module is `rng`."""
    dropped = data.caption_dropout_rate > 0 and rng.random() < data.caption_dropout_rate
    every = data.caption_dropout_every_n_epochs
    if dropped or (every > 0 and moment.epoch % every == 0):
        return ""
    if data.enable_wildcard:
        if "\n" in caption:
            caption = rng.choice(caption.split("\n"))
        caption = re.sub(r"\{([^}]+)\}", lambda found: rng.choice(found.group(1).split("|")), caption)
    else:
        caption = caption.split("\n")[0]
    if data.shuffle_caption or data.token_warmup_step > 0 or data.caption_tag_dropout_rate > 0:
        mark, last = data.keep_tokens_separator, []
        if mark and mark in caption:
            front, middle = caption.split(mark, 1)
            if mark in middle:
                middle, end = middle.split(mark, 1)
                last = [one.strip() for one in end.split(",") if one.strip()]
            first = [one.strip() for one in front.split(",") if one.strip()]
            rest = [one.strip() for one in middle.split(",") if one.strip()]
        else:
            parts = [one.strip() for one in caption.strip().split(",")]
            first, rest = parts[: data.keep_tokens], parts[data.keep_tokens :]
        length: float = data.token_warmup_step
        if length < 1:
            length = math.floor(length * moment.steps)
        if length and moment.step < length:
            count = math.floor(moment.step * ((len(rest) - data.token_warmup_min) / length)) + data.token_warmup_min
            rest = rest[:count]
        if data.shuffle_caption:
            rng.shuffle(rest)
        if data.caption_tag_dropout_rate > 0:
            rest = [one for one in rest if rng.random() >= data.caption_tag_dropout_rate]
        caption = ", ".join(first + rest + last)
    return caption.replace(data.secondary_separator, ", ") if data.secondary_separator else caption


@pytest.mark.parametrize(
    "values",
    [
        {"shuffle_caption": True, "keep_tokens": 2},
        {"caption_tag_dropout_rate": 0.4, "keep_tokens": 1},
        {"shuffle_caption": True, "keep_tokens_separator": "|||"},
        {"shuffle_caption": True, "secondary_separator": ";;;", "caption_tag_dropout_rate": 0.3},
        {"token_warmup_step": 10, "token_warmup_min": 2, "shuffle_caption": True},
        {"token_warmup_step": 0.5},
        {"enable_wildcard": True, "shuffle_caption": True},
        {"caption_dropout_every_n_epochs": 3, "caption_dropout_rate": 0.2},
    ],
)
def test_without_a_tag_it_is_sd_scripts_function(values: dict[str, Any]) -> None:
    """The same draws in the same order, over steps and epochs."""
    data = options(**values)
    mark = "a, b ||| c, d, e;;;f ||| g, h" if data.keep_tokens_separator else "a, b, c;;;d, e, f, g, h"
    caption = f"{mark.replace('d', '{d|dd|ddd}')}\nsecond, line, x, y" if data.enable_wildcard else mark
    found = set()
    for number in range(60):
        moment = Moment(epoch=number % 7, step=number // 3, steps=20)
        made = vary(caption.split("\n"), random.Random(number), data, moment)
        assert made == as_kohya(caption, random.Random(number), data, moment), number
        found.add(made)
    assert len(found) > 1


def test_the_tag_is_never_shuffled_dropped_or_held_back() -> None:
    caption = "red hat, park, photo of sks, tree"
    for values in (
        {"shuffle_caption": True},
        {"caption_tag_dropout_rate": 1.0},
        {"token_warmup_step": 100, "token_warmup_min": 0},
        {"shuffle_caption": True, "keep_tokens_separator": "|||"},
    ):
        data = options(tag="sks", **values)  # type: ignore[arg-type]
        for text in (caption, "hat ||| park, tree, photo of sks ||| sky"):
            made = looks(text, data, count=30)
            assert all("sks" in one for one in made)
            assert all(one.startswith("photo of sks") for one in made if "|||" not in one)
    assert looks(caption, options(tag="sks", caption_tag_dropout_rate=1.0)) == {"photo of sks": 200}
    wild = looks("{sks|woman}, hat", options(tag="sks", enable_wildcard=True))
    assert set(wild) == {"sks, hat", "sks, woman, hat"}


def test_lines_and_choices_are_drawn_evenly() -> None:
    made = looks("a\nb\n{c|d}", options(enable_wildcard=True), count=3000)
    assert {one: round(count / 3000, 1) for one, count in made.items()} == {"a": 0.3, "b": 0.3, "c": 0.2, "d": 0.2}
    assert looks("a {b|c}\nd", options()) == {"a {b|c}": 200}
    assert choose("{{x|y}} {a|b}", lambda choices: choices[1]) == "{x|y} b"


def test_tags_are_dropped_at_their_rate() -> None:
    made = looks("a, b, c, d", options(caption_tag_dropout_rate=0.25, keep_tokens=1), count=4000)
    assert all(one.startswith("a") for one in made)
    kept = sum(count for one, count in made.items() if "c" in one) / 4000
    assert kept == pytest.approx(0.75, abs=0.03)


def test_every_nth_epoch_has_no_captions() -> None:
    data = options(caption_dropout_every_n_epochs=3)
    assert [vary(["a"], random.Random(0), data, Moment(epoch=one)) for one in range(1, 8)] == [
        "a", "a", "", "a", "a", "", "a"
    ]  # fmt: skip


def test_captions_grow() -> None:
    """From one part at the start to all ten after 20 steps; a share is of all steps."""
    caption = ", ".join("abcdefghij")
    for length, steps in ((20.0, 999), (0.1, 200)):
        data = options(token_warmup_step=length, token_warmup_min=1)
        counts = [
            len(vary([caption], random.Random(0), data, Moment(1, step, steps)).split(", ")) for step in range(25)
        ]
        assert counts == [1 + math.floor(step * 9 / 20) for step in range(20)] + [10] * 5


def test_separators_are_no_part_of_what_is_read() -> None:
    data = options(keep_tokens_separator="|||", secondary_separator=";;;")
    assert looks("a ||| b;;;c, d ||| e", data) == {"a, b, c, d, e": 200}
    assert settled("a ||| {b|c};;;d", data) == "a, {b|c}, d"


def test_what_is_counted_is_the_longest_that_can_come() -> None:
    data = options(enable_wildcard=True, weighted_captions=True)
    assert longest_forms(["a {b|ccc} (d:1.2)", "{e|f} g"], data) == ["a ccc d", "e g"]
    assert longest_forms(["a {b|ccc} (d:1.2)", "x"], options()) == ["a {b|ccc} (d:1.2)"]

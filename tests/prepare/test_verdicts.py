"""Of similar pictures the better one stays."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image, ImageOps

from lora_train.config import PrepareOptions
from lora_train.prepare.base import Plan
from lora_train.prepare.operations import similar
from lora_train.prepare.records import Record, ViewRecord
from lora_train.prepare.verdicts import Input, decide, verdict
from tests.prepare.samples import real

PLAN = Plan(PrepareOptions(operations=("original", "similar"), min_size=0), "store")


def one(
    name: str, size: tuple[int, int] = (512, 512), captioned: bool = False, picture: Image.Image | None = None
) -> Input:
    shown = picture or real("astronaut")
    view = ViewRecord("original", size=size, signature=similar.signature(shown), file="original.png")
    return Input(Path(name), Path(name), Record(f"content of {name}", size, views=[view]), captioned)


def kept(*inputs: Input, overrules: dict[str, bool] | None = None) -> list[str]:
    return [entry.relative.name for entry in decide(list(inputs), PLAN, overrules or {}) if entry.verdict.kept]


@pytest.mark.parametrize(
    ("inputs", "best"),
    [
        ([one("a.png"), one("b.png")], "a.png"),
        ([one("a.png", (300, 300)), one("b.png")], "b.png"),
        ([one("a.png"), one("b.png", (300, 300), captioned=True)], "b.png"),
        ([one("a (1).png"), one("b.png")], "b.png"),
        ([one("Copy of b.png"), one("b.png")], "b.png"),
        ([one("a - Copy.png"), one("a.png")], "a.png"),
        ([one("a copy 2.png"), one("a.png")], "a.png"),
        ([one("a.png", (600, 600)), one("b.png", (300, 300)), one("c.png", (900, 900))], "c.png"),
    ],
)
def test_the_better_one_stays(inputs: list[Input], best: str) -> None:
    assert kept(*inputs) == [best]


def test_the_report_stays_in_the_order_of_paths() -> None:
    entries = decide([one("a.png", (300, 300)), one("b.png")], PLAN, {})
    assert [entry.relative.name for entry in entries] == ["a.png", "b.png"]
    assert entries[0].verdict.reason.startswith("similar to b.png (original), which is kept (")
    assert entries[0].twin == entries[1].key


def test_what_a_person_keeps_stays_and_rejects_nothing() -> None:
    small, large = one("a.png", (300, 300)), one("b.png", captioned=True)
    key = decide([small, large], PLAN, {})[0].key
    assert kept(small, large, overrules={key: True}) == ["a.png", "b.png"]


def test_mirrored_twins_are_seen() -> None:
    turned = one("b.png", picture=ImageOps.mirror(real("astronaut")))
    entries = decide([one("a.png"), turned], PLAN, {})
    assert [entry.verdict.kept for entry in entries] == [True, False]
    assert "a.png (original), mirrored, which is kept" in entries[1].verdict.reason


@pytest.mark.parametrize(
    ("size", "stays"), [((511, 300), False), ((512, 300), True), ((300, 512), True), ((513, 9), True)]
)
def test_the_longer_side_may_be_just_the_least(size: tuple[int, int], stays: bool) -> None:
    plan = Plan(PrepareOptions(operations=("original",), min_size=512), "store")
    assert verdict(ViewRecord("original", size=size), plan).kept is stays


@pytest.mark.parametrize(("size", "stays"), [((255, 9), False), ((256, 9), True)])
def test_what_upscaling_makes_large_enough_stays(size: tuple[int, int], stays: bool) -> None:
    plan = Plan(PrepareOptions(operations=("original", "upscale"), min_size=512, target=512), "store", upscale=True)
    assert verdict(ViewRecord("original", size=size), plan).kept is stays


def test_scores_may_be_just_at_their_limits() -> None:
    plan = Plan(
        PrepareOptions(operations=("original", "blur", "range"), min_size=0, max_blur=1.5, min_range=0.4), "store"
    )
    for scores, rule in (({"blur": 1.5, "range": 0.4}, ""), ({"blur": 1.51}, "blur"), ({"range": 0.39}, "range")):
        assert verdict(ViewRecord("original", size=(9, 9), scores=scores), plan).rule == rule


def test_two_pictures_may_be_just_as_similar_as_allowed() -> None:
    other = one("b.png", picture=real("astronaut").crop((4, 4, 500, 500)))
    similarity = decide([one("a.png"), other], PLAN, {})[1].similarity
    assert similarity is not None and 0.3 < similarity < 1
    for limit, stays in ((similarity, 2), (similarity - 1e-9, 1)):
        plan = replace(PLAN, options=replace(PLAN.options, max_similarity=limit))
        assert sum(entry.verdict.kept for entry in decide([one("a.png"), other], plan, {})) == stays


def test_what_cannot_be_made_cannot_be_kept_by_hand_either() -> None:
    absent = Input(
        Path("a.png"), Path("a.png"), Record("x", views=[ViewRecord("face", "no face", "no face was found")])
    )
    (entry,) = decide([absent], PLAN, {})
    (again,) = decide([absent], PLAN, {entry.key: True})
    assert not again.verdict.kept and again.overruled is None and again.verdict.reason == "no face was found"


@pytest.mark.parametrize(
    ("operations", "size", "stays"),
    [
        (("original",), (600, 7), False),
        (("original",), (7, 600), False),
        (("original",), (600, 8), True),
        (("original", "resize"), (3000, 40), False),  # 512 x 7 when resized
        (("original", "resize"), (3000, 44), True),
        (("original", "resize", "square"), (3000, 20), True),  # padded
    ],
)
def test_what_a_training_would_leave_out_is_not_kept(
    operations: tuple[str, ...], size: tuple[int, int], stays: bool
) -> None:
    found = verdict(ViewRecord("original", size=size), Plan(PrepareOptions(operations=operations), "store"))
    assert (found.kept, found.rule) == (stays, "" if stays else "too thin")
    assert stays or f"{size[0]} x {size[1]} pixels" in found.reason

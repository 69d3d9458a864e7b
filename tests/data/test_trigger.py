"""The trigger words that captions show."""

from __future__ import annotations

from pathlib import Path

import pytest

from lora_train.data.scan import Manifest, Picture, scan
from lora_train.data.trigger import trigger_of
from lora_train.runs.demo import write_pictures


def manifest(*captions: str, concept: str = "pictures", repeats: int = 10) -> list[Picture]:
    return [Picture(Path(f"{i}.png"), 8, 8, text, concept, repeats) for i, text in enumerate(captions)]


def test_the_tag_counts_where_there_is_one() -> None:
    assert trigger_of(Manifest(Path(), manifest("sks on blue", "sks on red")), " sara ") == "sara"


@pytest.mark.parametrize(
    ("captions", "found"),
    [
        (("sks on blue", "sks on green"), "sks"),
        (("sks woman, in a park", "Sks woman, smiling"), "sks woman"),
        (("sks, blue hair, smile", "sks, blue hair, hat"), "sks"),
        (("sks", "sks"), "sks"),
        (("sks on colour 1", "sks on colour 2"), "sks"),
        (("a photo of sks in a park", "a photo of sks at home"), ""),
        (("photo of sks", "photo of sks, smiling"), ""),
        (("1girl, solo", "1girl, smile"), ""),
        (("on the left, sks", "on the left, tree"), ""),
        (("red star", "blue ring"), ""),
        (("one two three four five six", "one two three four five seven"), ""),
        (("sks on blue",), ""),
        (("sks", ""), ""),
        (("", ""), ""),
        ((), ""),
    ],
)
def test_without_one_the_captions_common_beginning(captions: tuple[str, ...], found: str) -> None:
    assert trigger_of(Manifest(Path(), manifest(*captions)), "") == found


def test_the_concept_that_is_repeated_most_counts() -> None:
    others = manifest("red star on blue", "small ring", concept="other", repeats=1)
    assert trigger_of(Manifest(Path(), others + manifest("sks on blue", concept="sks", repeats=4)), "") == "sks"
    named = manifest("a tree by sks, day", "a tree by sks, night", concept="a tree", repeats=4)
    assert trigger_of(Manifest(Path(), others + named), "") == "a tree"
    two = manifest("ann smiles", concept="ann") + manifest("bob smiles", concept="bob")
    assert trigger_of(Manifest(Path(), two), "") == ""


def test_the_demos_captions_show_its_tag(tmp_path: Path) -> None:
    write_pictures(tmp_path / "pictures")
    assert trigger_of(scan(tmp_path / "pictures"), "") == "sks"

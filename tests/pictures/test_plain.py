"""Pictures that show nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lora_train.config import PrepareOptions
from lora_train.data.scan import scan
from lora_train.pictures.plain import plain_note
from lora_train.prepare import prepare

SIDE = 320


def picture(mode: str = "RGB") -> Image.Image:
    """Something to see, in colours and in how opaque it is."""
    values = np.random.default_rng(1).integers(0, 255, (SIDE, SIDE, len(mode)), dtype=np.uint8)
    return Image.fromarray(values, mode)


def hidden() -> Image.Image:
    """A picture that is there and transparent all over, so that its file is large."""
    image = picture("RGBA")
    image.putalpha(0)
    return image


def noted(folder: Path) -> list[str]:
    return [note for note in scan(folder).notes if "of one colour" in note]


@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("a.png", {}),
        ("stored.png", {"compress_level": 0}),
        ("a.jpg", {"quality": 60}),
        ("a.webp", {"lossless": True}),
        ("a.bmp", {}),
        ("a.tif", {}),
        ("a.gif", {}),
    ],
)
def test_a_picture_of_one_colour_is_named(tmp_path: Path, name: str, how: dict[str, object]) -> None:
    Image.new("RGB", (SIDE, SIDE), (12, 130, 77)).save(tmp_path / name, **how)  # type: ignore[arg-type]
    picture().save(tmp_path / "other.png")
    assert noted(tmp_path) == [plain_note([name], 2)]


@pytest.mark.parametrize("image", [hidden(), Image.new("LA", (SIDE, SIDE), (0, 0))], ids=["colours", "black"])
def test_a_picture_that_is_transparent_all_over_is_named(tmp_path: Path, image: Image.Image) -> None:
    image.save(tmp_path / "a.png")
    picture("RGBA").save(tmp_path / "b.png")
    assert noted(tmp_path) == [plain_note(["a.png"], 2)]


def test_a_picture_that_shows_little_is_not(tmp_path: Path) -> None:
    drawing = Image.new("L", (SIDE, SIDE), 255)
    drawing.paste(0, (100, 100, 110, 110))
    drawing.save(tmp_path / "a.png")
    drawing.save(tmp_path / "a.jpg")
    assert noted(tmp_path) == []


def test_many_are_counted_and_the_first_are_named(tmp_path: Path) -> None:
    for number in range(5):
        Image.new("RGB", (SIDE, SIDE), "white").save(tmp_path / f"{number}.png")
    (note,) = noted(tmp_path)
    assert note.startswith("5 of 5 pictures are of one colour or transparent all over (0.png, 1.png, 2.png, ...)")


def test_a_preparation_names_them_too(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    Image.new("RGB", (SIDE, SIDE), "blue").save(tmp_path / "in" / "a.png")
    picture().save(tmp_path / "in" / "b.png")
    options = PrepareOptions(operations=("original", "resize"), target=64, min_size=0)
    for _ in range(2):  # the second one works on nothing
        prepared = prepare(tmp_path / "in", options, tmp_path / "work")
        assert plain_note(["a.png"], 2) in prepared.notes

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from PIL import Image

from lora_train.captions.store import caption_file, keep_backup, store_caption, store_captions
from lora_train.errors import LoraTrainError
from lora_train.pictures.captions import read_caption


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """One small picture without a caption."""
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    return tmp_path / "a.png"


def test_a_caption_is_one_line_of_utf8(picture: Path) -> None:
    stored = store_caption(picture, " été\n in \ud800 Paris ")
    assert stored.outcome == "written" and stored.file == picture.with_suffix(".txt")
    assert picture.with_suffix(".txt").read_bytes() == "été in ? Paris\n".encode()
    store_caption(picture, "", recaption=True)
    assert picture.with_suffix(".txt").read_bytes() == b"\n"  # kohya's loader refuses an empty file


@pytest.mark.parametrize("extension", [".txt", ".caption"])
def test_what_is_there_wins_unless_recaption(picture: Path, extension: str) -> None:
    file = picture.with_suffix(extension)
    file.write_text("by hand")
    assert store_caption(picture, "by model").outcome == "kept"
    assert file.read_text() == "by hand"
    assert store_caption(picture, "by model", recaption=True, backup=True).file == file
    assert read_caption(picture) == "by model"
    assert store_caption(picture, "again", recaption=True, backup=True).file == file
    copies = {path.name: path.read_text() for path in picture.parent.glob("*.bak*")}
    assert copies == {f"a{extension}.bak": "by hand", f"a{extension}.bak2": "by model\n"}
    store_caption(picture, "third", recaption=True)
    assert len(list(picture.parent.glob("*.bak*"))) == 2


def test_the_file_that_is_read_is_the_one_written(picture: Path) -> None:
    picture.with_suffix(".caption").write_text("hidden")
    picture.with_suffix(".txt").write_text("seen")
    assert caption_file(picture) == picture.with_suffix(".txt")
    store_caption(picture, "new", recaption=True)
    assert picture.with_suffix(".caption").read_text() == "hidden"


def test_a_link_is_replaced_not_followed(picture: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("not ours")
    picture.with_suffix(".txt").symlink_to(elsewhere)
    store_caption(picture, "new", recaption=True)
    assert elsewhere.read_text() == "not ours" and read_caption(picture) == "new"


def test_the_same_backup_is_made_once(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x")
    assert keep_backup(tmp_path / "a.txt") == keep_backup(tmp_path / "a.txt") == tmp_path / "a.txt.bak"


def _in_pairs(pictures: Iterable[Image.Image]) -> Iterator[str]:
    """A captioner that looks at two pictures before it speaks, as batching ones do."""
    waiting = []
    for picture in pictures:
        waiting.append(f"{picture.width} wide")
        if len(waiting) == 2:
            yield from waiting
            waiting.clear()
    yield from waiting


def test_a_captioner_gets_what_needs_a_caption_and_is_matched(tmp_path: Path) -> None:
    for number in range(5):
        Image.new("RGB", (10 + number, 8)).save(tmp_path / f"{number}.png")
    (tmp_path / "1.txt").write_text("by hand")
    (tmp_path / "3.png").write_text("broken")
    pictures = sorted(tmp_path.glob("*.png"))
    stored = list(store_captions(pictures, _in_pairs))
    assert {(s.picture.name, s.outcome) for s in stored} == {
        ("0.png", "written"),
        ("1.png", "kept"),
        ("2.png", "written"),
        ("3.png", "broken"),
        ("4.png", "written"),
    }
    assert [read_caption(picture) for picture in pictures] == ["10 wide", "by hand", "12 wide", None, "14 wide"]
    assert [s.outcome for s in store_captions(pictures, _in_pairs)].count("kept") == 4


def test_a_captioner_that_says_too_little_is_told(picture: Path) -> None:
    with pytest.raises(LoraTrainError, match="returned nothing for 1 pictures"):
        list(store_captions([picture], lambda pictures: iter("" for picture in pictures if picture.width > 8)))

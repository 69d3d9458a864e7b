from __future__ import annotations

import os
import random
import shutil
import sys
from pathlib import Path

import pytest
from PIL import Image

from lora_train.config import DataOptions
from lora_train.data.scan import concept_of, scan
from lora_train.errors import LoraTrainError
from lora_train.pictures.captions import with_tag
from lora_train.pictures.varying import vary
from tests.conftest import draw_pictures


def test_folder_names_give_repeats_and_concepts(tmp_path: Path) -> None:
    draw_pictures(tmp_path / "10_sara woman", 2)
    draw_pictures(tmp_path / "dog", 1)
    draw_pictures(tmp_path, 1)
    manifest = scan(tmp_path, "sks", repeats=3)
    found = sorted((p.concept, p.repeats) for p in manifest.pictures)
    assert found == sorted([("dog", 3), (tmp_path.name, 3), ("sara woman", 10), ("sara woman", 10)])
    assert manifest.looks_per_epoch == 26


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
def test_captions_as_windows_saves_them(tmp_path: Path, encoding: str) -> None:
    draw_pictures(tmp_path, 1)
    (tmp_path / "picture-0.txt").write_bytes("a café, red hair\r\n".encode(encoding))
    assert scan(tmp_path).pictures[0].caption == "a café, red hair"


@pytest.mark.parametrize(
    ("name", "repeats", "concept"),
    [("10_x", 10, "x"), ("3_a b", 3, "a b"), ("x", None, "x"), ("_x", None, "_x"), ("0_x", None, "0_x"), ("5_", 5, "")],
)
def test_concept_of(name: str, repeats: int | None, concept: str) -> None:
    assert concept_of(name) == (repeats, concept)


def test_captions_from_txt_then_caption_then_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "5_sara woman"
    folder.mkdir()
    for name in ("a", "b", "c"):
        Image.new("RGB", (64, 64)).save(folder / f"{name}.png")
    (folder / "a.txt").write_text("\ufefffirst\nline ", encoding="utf-8")
    (folder / "a.caption").write_text("second")
    (folder / "b.caption").write_text("from caption")
    assert [p.caption for p in scan(tmp_path).pictures] == ["first", "from caption", "sara woman"]
    assert [p.caption for p in scan(tmp_path, "sks").pictures] == ["sks, first", "sks, from caption", "sks"]


@pytest.mark.parametrize(
    ("tag", "caption", "expected"),
    [
        ("sks", "on blue", "sks, on blue"),
        ("sks", "sks on blue", "sks on blue"),
        ("sks", "photo of SKS, blue", "photo of SKS, blue"),
        ("sks", "sksy thing", "sks, sksy thing"),
        ("sks", "sksmile, risks", "sks, sksmile, risks"),
        ("sks", "sks's red hair.", "sks's red hair."),
        ("sks", "a photo of sks.", "a photo of sks."),
        ("sks", "my_sks", "sks, my_sks"),
        ("sara b", "photo of sara\u00a0b", "photo of sara\u00a0b"),
        ("café", "photo of cafe\u0301", "photo of cafe\u0301"),
        ("c++ (x)", "C++ (x), y", "C++ (x), y"),
        ("sks", "", "sks"),
        ("", "on blue", "on blue"),
        ("sks,", "x", "sks, x"),
        ("sara, woman", "sara, woman, red hair", "sara, woman, red hair"),
        ("sara, woman", "sara in red", "sara, woman, sara in red"),
    ],
)
def test_tag_goes_first_once(tag: str, caption: str, expected: str) -> None:
    assert with_tag(tag, caption) == expected


def test_shuffle_keeps_the_front_and_loses_nothing() -> None:
    orders = {
        vary(["a, b, c, d"], random.Random(i), DataOptions(shuffle_caption=True, keep_tokens=1)) for i in range(50)
    }
    assert len(orders) == 6
    assert all(order.startswith("a, ") and sorted(order.split(", ")) == ["a", "b", "c", "d"] for order in orders)


def test_caption_dropout_has_its_rate() -> None:
    dropped = sum(vary(["a"], random.Random(i), DataOptions(caption_dropout_rate=0.3)) == "" for i in range(2000))
    assert 500 < dropped < 700


def test_broken_pictures_are_listed_and_not_fatal(tmp_path: Path) -> None:
    draw_pictures(tmp_path, 2)
    (tmp_path / "text.png").write_text("no picture")
    manifest = scan(tmp_path)
    assert len(manifest.pictures) == 2
    assert [r.path.name for r in manifest.rejected] == ["text.png"]


def test_nothing_usable_names_the_files(tmp_path: Path) -> None:
    with pytest.raises(LoraTrainError, match="no pictures"):
        scan(tmp_path)
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(LoraTrainError, match=r"text\.png: this is not a picture"):
        scan(tmp_path)
    with pytest.raises(LoraTrainError, match="no such folder"):
        scan(tmp_path / "nowhere")
    with pytest.raises(LoraTrainError, match="not a folder"):
        scan(tmp_path / "text.png")


def test_hidden_folders_are_left_out(tmp_path: Path) -> None:
    draw_pictures(tmp_path, 1)
    draw_pictures(tmp_path / ".cache", 1)
    assert len(scan(tmp_path).pictures) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="only there names may be any bytes")
def test_names_that_are_no_text_are_left_out_with_a_reason(tmp_path: Path) -> None:
    draw_pictures(tmp_path / "pictures")
    folder = os.fsencode(tmp_path / "pictures") + b"/5_caf\xe9"
    os.mkdir(folder)
    shutil.copy(os.fsencode(tmp_path / "pictures" / "picture-0.png"), os.path.join(folder, b"a.png"))
    manifest = scan(tmp_path / "pictures")
    assert len(manifest.pictures) == 4
    (rejected,) = manifest.rejected
    assert "not text" in rejected.reason and str(rejected.path).endswith("5_caf\\xe9/a.png")


def test_the_card_beside_a_lora_is_no_training_picture(tmp_path: Path) -> None:
    draw_pictures(tmp_path)
    for name in ("sara.preview.png", "sara.png"):
        shutil.copy(tmp_path / "picture-0.png", tmp_path / name)
    assert len(scan(tmp_path).pictures) == 6
    (tmp_path / "sara.safetensors").touch()
    assert len(scan(tmp_path).pictures) == 4


def test_all_lines_and_a_suffix(tmp_path: Path) -> None:
    folder = draw_pictures(tmp_path / "in", 1)
    (folder / "picture-0.txt").write_text("a hat\nphoto of sks\n# a comment\n")
    for wild, said in ((False, "the first is used"), (True, "one is drawn each time")):
        manifest = scan(folder, "sks", data=DataOptions(enable_wildcard=wild, caption_suffix=" best "))
        assert manifest.pictures[0].lines == ("sks, a hat best", "photo of sks best")
        assert any(said in note for note in manifest.notes)


def test_syntax_that_is_understood_is_not_said_to_be_literal(tmp_path: Path) -> None:
    folder = draw_pictures(tmp_path / "in", 1)
    (folder / "picture-0.txt").write_text("{a|b} (hat:1.2) ||| c")
    kinds = ("wildcards", "weights", "|||")
    plain = "".join(scan(folder).notes)
    assert all(kind in plain for kind in kinds)
    data = DataOptions(enable_wildcard=True, weighted_captions=True, keep_tokens_separator="|||")
    assert not any(kind in "".join(scan(folder, data=data).notes) for kind in kinds)

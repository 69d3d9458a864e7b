from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from lora_train.config import DataOptions
from lora_train.data.scan import scan
from lora_train.data.sources import read_pictures
from lora_train.pictures.neighbours import caption_file, caption_files, unread_files


def put(folder: Path, *names: str) -> None:
    folder.mkdir(exist_ok=True)
    for name in names:
        picture = Image.new("RGB", (64, 64))
        picture.paste((255, 255, 255), (0, 0, 32, 32))
        picture.save(folder / name)


def captions(folder: Path, tag: str = "") -> dict[str, str]:
    return {picture.path.name: picture.caption for picture in scan(folder, tag).pictures}


def notes(folder: Path, tag: str = "sks") -> str:
    return "\n".join(scan(folder, tag).notes)


@pytest.mark.parametrize(
    ("picture", "file"),
    [
        ("A.JPG", "A.TXT"),
        ("b.jpg", "b.jpg.txt"),
        ("c.png", "c.Caption"),
        ("G.jpeg", "g.txt"),
        ("d.webp", "D.WEBP.TXT"),
        ("Été.png", "été.txt"),
        ("E\u0301te\u0301.png", "\u00c9t\u00e9.txt"),
    ],
)
def test_captions_are_found_whatever_their_case(tmp_path: Path, picture: str, file: str) -> None:
    put(tmp_path, picture)
    (tmp_path / file).write_text("red hair")
    assert captions(tmp_path, "sks") == {picture: "sks, red hair"}
    assert scan(tmp_path, "sks").notes == []
    assert caption_file(tmp_path / picture) == tmp_path / file


def test_a_caption_of_another_picture_is_not_taken(tmp_path: Path) -> None:
    put(tmp_path, "a.png", "A.jpg", "b.png", "c.jpg", "c.png")
    (tmp_path / "a.txt").write_text("of a")
    (tmp_path / "c.jpg.txt").write_text("of c.jpg")
    assert caption_files(tmp_path / "a.png") == [tmp_path / "a.txt"]
    assert caption_files(tmp_path / "A.jpg") == [] == caption_files(tmp_path / "c.png")
    assert captions(tmp_path)["c.jpg"] == "of c.jpg"
    (tmp_path / "b.TXT").write_text("came later")
    assert captions(tmp_path)["b.png"] == "came later"


def test_of_two_that_differ_the_one_used_is_named(tmp_path: Path) -> None:
    put(tmp_path, "h.png", "i.png")
    for name, text in (("h.txt", "one"), ("h.caption", "two"), ("i.txt", "same"), ("i.caption", " same\n")):
        (tmp_path / name).write_text(text)
    assert captions(tmp_path) == {"h.png": "one", "i.png": "same"}
    assert "1 picture has several caption files that differ; read: h.txt." in notes(tmp_path)


def test_what_looks_like_a_caption_and_is_not_read_is_named(tmp_path: Path) -> None:
    put(tmp_path, *(f"{name}.png" for name in "defgh"))
    for name in ("d.json", "e.tags", "f.png.cap", "h.txt.txt", "g.TXT", "g.json", "readme.md", "h.note"):
        (tmp_path / name).write_text("{}")
    assert unread_files(tmp_path / "f.png") == [tmp_path / "f.png.cap"]
    told = notes(tmp_path)
    assert "Not read, although beside pictures without a caption: d.json, e.tags, f.png.cap, h.txt.txt." in told
    assert "4 of 5 pictures have nothing but the tag as caption (d.png, e.png, f.png, h.png)." in told
    assert "All pictures have nothing" not in told


def test_pictures_with_the_tag_alone_are_counted(tmp_path: Path) -> None:
    put(tmp_path, "a.png", "b.png")
    assert scan(tmp_path, "sks").notes == ["All pictures have nothing but the tag as caption."]
    assert scan(tmp_path).notes == ["All pictures have no caption."]
    (tmp_path / "a.txt").write_text("red hair")
    (tmp_path / "b.txt").write_text(" sks, \n")
    assert scan(tmp_path, "sks").notes[0].startswith("1 of 2 pictures has nothing but the tag as caption (b.png).")


def test_files_that_are_no_text_are_named_and_count_as_missing(tmp_path: Path) -> None:
    put(tmp_path, *(f"{name}.png" for name in "abcde"))
    (tmp_path / "a.txt").write_bytes("sks, 红色头发, 公园".encode("gbk"))
    (tmp_path / "b.txt").write_bytes("sks, 赤い髪".encode("cp932"))
    (tmp_path / "c.txt").write_bytes("sks’s café".encode("cp1252"))
    (tmp_path / "d.txt").write_bytes("sks, café".encode("utf-16-le"))
    (tmp_path / "e.txt").write_bytes(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR")
    (tmp_path / "e.caption").write_text("from the other")
    found = captions(tmp_path, "sks")
    assert found == {
        "a.png": "sks", "b.png": "sks", "c.png": "sks’s café", "d.png": "sks, café", "e.png": "sks, from the other"
    }  # fmt: skip
    told = notes(tmp_path)
    assert "2 caption files cannot be read and count as missing: a.txt, b.txt (the encoding is not known)" in told
    assert "1 caption file cannot be read and counts as missing: e.txt (not text: " in told
    assert "1 caption file not in UTF-8 was read as Windows-1252 (c.txt)" in told


def test_of_several_lines_the_first_is_the_caption(tmp_path: Path) -> None:
    put(tmp_path, "a.png", "b.png", "c.png", "d.png")
    (tmp_path / "a.txt").write_bytes(b"\n1girl, hat\rsks, a drawing\r\na woman")
    (tmp_path / "b.txt").write_text("# made by tagger v3\nred hair")
    (tmp_path / "c.txt").write_text("#1girl, hat\n")
    (tmp_path / "d.txt").write_text("# alone\n")
    found = captions(tmp_path, "sks")
    assert found["a.png"] == "sks, 1girl, hat" and found["b.png"] == "sks, red hair"
    assert found["c.png"] == "sks, #1girl, hat" and found["d.png"] == "sks, # alone"
    told = notes(tmp_path)
    assert "1 caption has several lines (a.txt). They are alternatives; the first is used" in told
    assert "2 captions have lines that start with # (b.txt, d.txt)" in told


def test_lines_in_metadata_are_alternatives_too(tmp_path: Path) -> None:
    put(tmp_path, "a.png", "b.png")
    row = {"file_name": "a.png", "text": "one\ntwo"}
    (tmp_path / "metadata.jsonl").write_text(json.dumps(row))
    manifest = read_pictures(DataOptions(folder=str(tmp_path)), 1)
    assert [picture.caption for picture in manifest.pictures] == ["one", ""]
    assert any("1 caption has several lines (a.png)" in note for note in manifest.notes)
    kohya = tmp_path / "meta.json"
    kohya.write_text(json.dumps({str(tmp_path / "b.png"): {"caption": "one\ntwo", "tags": "hat"}}))
    manifest = read_pictures(DataOptions(folder=str(tmp_path), in_json=str(kohya), tag="sks"), 1)
    assert [picture.caption for picture in manifest.pictures] == ["sks, one, hat"]
    assert any("1 caption has several lines (b.png)" in note for note in manifest.notes)


def test_prompt_syntax_is_counted_once_with_the_way_to_remove_it(tmp_path: Path) -> None:
    texts = (
        "(masterpiece:1.2), (sks:1.3)",
        "sks BREAK hat",
        "<lora:x:0.6> sks",
        r"saber \(fate\)",
        "{a|b} sks",
        "&amp; x",
    )
    put(tmp_path, *(f"{number}.png" for number in range(len(texts) + 4)))
    plain = ("saber (fate), brand, __", "A MAN AND A WOMAN", "c:d, ^_^, (a) (b)", "nothing: 1.3, x/y")
    for number, text in enumerate((*texts, *plain)):
        (tmp_path / f"{number}.txt").write_text(text)
    (told,) = scan(tmp_path, "sks").notes
    assert told.startswith("Prompt syntax in 6 of 10 captions is trained on literally (weights such as (x:1.3) in 1,")
    assert "captions FOLDER plain" in told


def test_an_address_is_named(tmp_path: Path) -> None:
    put(tmp_path, "a.png", "b.png", "c.png")
    for name, text in (("a", r"C:\Users\me\img\10_sks\a.png"), ("b", "see https://x.org"), ("c", "black/white, d.o.g")):
        (tmp_path / f"{name}.txt").write_text(text)
    assert scan(tmp_path, "sks").notes == ["The caption of a.png, b.png contains the address of a file or a page."]

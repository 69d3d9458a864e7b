"""What others wrote about pictures, as a training set."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lora_train.cli import main
from lora_train.config import DataOptions, PrepareOptions, RunConfig, problems
from lora_train.data.scan import Manifest
from lora_train.data.sources import read_pictures
from lora_train.errors import LoraTrainError
from lora_train.prepare import prepare
from tests.conftest import draw_pictures


def read(**options: Any) -> Manifest:
    return read_pictures(DataOptions(**options), 10)


def captions(manifest: Manifest) -> dict[str, str]:
    return {picture.path.name: picture.caption for picture in manifest.pictures}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four pictures in `5_sara`, the first without a caption."""
    draw_pictures(tmp_path / "in" / "5_sara")
    (tmp_path / "in" / "5_sara" / "picture-0.txt").unlink()
    return tmp_path / "in"


def test_kohyas_metadata_names_the_pictures(folder: Path, tmp_path: Path) -> None:
    told = {
        "5_sara/picture-0": {"caption": "woman", "tags": "1girl, woman"},
        str(folder / "5_sara" / "picture-2.png"): {"tags": "hat,red hair"},
        "5_sara/gone": {"caption": "x"},
        "../outside": {"caption": "x"},
    }
    (tmp_path / "meta.json").write_text(json.dumps(told))
    manifest = read(folder=str(folder), in_json=str(tmp_path / "meta.json"), tag="sks")
    assert captions(manifest) == {"picture-0.png": "sks, woman, 1girl", "picture-2.png": "sks, hat, red hair"}
    assert {picture.repeats for picture in manifest.pictures} == {5}
    assert manifest.summary().endswith("left out: 2 entries of the metadata without a picture (gone, outside)")


def test_what_prepare_writes_is_read(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORA_TRAIN_DATA", str(tmp_path / "data"))
    command = ["prepare", "--input", str(folder), "--process", "original,resize", "--target", "64", "--tag", "sks"]
    assert main(command) == 0
    (work,) = (tmp_path / "data" / "prepared").iterdir()
    manifest = read(folder=str(work / "pictures"), in_json=str(work / "metadata.json"), tag="sks")
    assert captions(manifest) == {
        "picture-0.png": "sks",
        **{f"picture-{n}.png": f"sks on colour {n}" for n in (1, 2, 3)},
    }


@pytest.mark.parametrize(
    "name", ["C:\\Users\\me\\in\\5_sara\\picture-{}.png", "/old/root/5_Sara/picture-{}", "D:/5_sara/picture-{}.jpg.png"]
)
def test_metadata_of_another_computer_are_matched_by_the_longest_end(folder: Path, tmp_path: Path, name: str) -> None:
    draw_pictures(folder / "3_other")
    (folder / "5_sara" / "picture-3.png").rename(folder / "5_sara" / "picture-3.jpg.png")
    number = 3 if ".jpg" in name else 1
    told = {name.format(number): {"caption": ["mine", "or this"]}, "E:\\x\\9_gone\\picture-9.png": {"caption": "x"}}
    (tmp_path / "meta.json").write_text(json.dumps(told))
    manifest = read(folder=str(folder), in_json=str(tmp_path / "meta.json"))
    (picture,) = manifest.pictures
    assert picture.path.parent.name == "5_sara" and str(number) in picture.path.name and picture.caption == "mine"
    assert "1 entry of the metadata without a picture (picture-9.png)" in manifest.summary()


def test_an_imagefolder_by_itself_and_by_name(folder: Path) -> None:
    rows = [{"file_name": f"5_sara/picture-{n}.png", "text": f"row {n}"} for n in (0, 1)]
    (folder / "metadata.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    found = captions(read(folder=str(folder)))
    assert found["picture-0.png"] == "row 0" and found["picture-1.png"] == "sks on colour 1" and len(found) == 4
    named = captions(read(folder=str(folder), in_json=str(folder / "metadata.jsonl")))
    assert named == {"picture-0.png": "row 0", "picture-1.png": "row 1"}


def test_another_metadata_jsonl_does_no_harm(folder: Path) -> None:
    (folder / "metadata.jsonl").write_text('{"file_name": "5_sara/picture-0.png", "objects": []}')
    manifest = read(folder=str(folder))
    assert len(manifest.pictures) == 4 and "not used" in manifest.notes[0]


def test_a_dataset_config(folder: Path, tmp_path: Path) -> None:
    draw_pictures(tmp_path / "other", 2)
    draw_pictures(tmp_path / "reg", 3)
    (tmp_path / "other" / "picture-1.caption").write_text("second")
    config = {
        "general": {"shuffle_caption": True, "color_aug": True},
        "datasets": [
            {
                "resolution": 512,
                "subsets": [
                    {
                        "image_dir": str(folder / "5_sara"),
                        "num_repeats": 3,
                        "caption_extension": ".txt",
                        "class_tokens": "sara woman",
                    },
                    {"image_dir": "other", "caption_prefix": "photo of"},
                    {"image_dir": "reg", "is_reg": True, "class_tokens": "woman", "shuffle_caption": False},
                ],
            }
        ],
    }
    (tmp_path / "data.json").write_text(json.dumps(config))
    manifest = read(dataset_config=str(tmp_path / "data.json"), tag="sks")
    reg = [picture for picture in manifest.pictures if picture.reg]
    # 4 pictures with 3 repeats and 2 with 1 are 14; in turn, 3 pictures have 5, 5 and 4
    assert [(one.repeats, one.caption) for one in reg] == [(5, "woman"), (5, "woman"), (4, "woman")]
    assert "3 pictures are used as regularisation pictures, 14 times in an epoch beside 14 of the subject." in (
        manifest.notes
    )
    run = DataOptions(shuffle_caption=False, resolution=1024, tag="sks")
    assert [one.options(run).shuffle_caption for one in manifest.pictures] == [True] * 6 + [False] * 3
    assert {one.options(run).resolution for one in manifest.pictures} == {512}
    found = {(p.path.parent.name, p.path.name): (p.caption, p.repeats, p.concept) for p in manifest.trained}
    assert found["5_sara", "picture-0.png"] == ("sks, sara woman", 3, "sara")
    assert found["5_sara", "picture-1.png"] == ("sks on colour 1", 3, "sara")
    assert found["other", "picture-1.png"] == ("sks, photo of second", 1, "other")
    assert found["other", "picture-0.png"] == ("sks, photo of", 1, "other")
    assert len(found) == 6 and manifest.summary() == "6 pictures in 2 concepts, and 3 regularisation pictures"
    assert "Ignored in data.json: general.color_aug." in manifest.notes


def test_wrong_subsets_are_told_together(tmp_path: Path) -> None:
    subsets = [{"image_dir": str(tmp_path / name)} for name in ("one", "two")]
    (tmp_path / "data.json").write_text(json.dumps({"datasets": [{"subsets": subsets}]}))
    with pytest.raises(LoraTrainError) as caught:
        read(dataset_config=str(tmp_path / "data.json"))
    assert len(caught.value.problems) == 2
    draw_pictures(tmp_path / "one", 1)
    draw_pictures(tmp_path / "two", 1)
    options = DataOptions(dataset_config=str(tmp_path / "data.json"))
    with pytest.raises(LoraTrainError, match="outside the folders"):
        read_pictures(options, 10, lambda path: path.name != "two")


def test_what_does_not_go_together() -> None:
    config = RunConfig.from_dict(
        {
            "data": {"folder": "x", "dataset_config": "y", "in_json": "z"},
            "prepare": {
                "operations": ["interrogate"],
                "captioner": "command",
                "tagger": "wd14",
                "background": "red",
                "tag_threshold": 2.0,
            },
        }
    )
    found = {problem.where for problem in problems(config)}
    assert {
        "data.dataset_config",
        "data.in_json",
        "prepare.captioner_command",
        "prepare.tagger_model",
        "prepare.background",
        "prepare.tag_threshold",
    } <= found


def test_metadata_that_is_not_read_is_named_where_captions_are_missing(tmp_path: Path) -> None:
    draw_pictures(tmp_path / "set" / "train", 2)
    for text in (tmp_path / "set" / "train").glob("*.txt"):
        text.unlink()
    (tmp_path / "set" / "metadata.csv").write_text("file_name,text\n")
    (tmp_path / "set" / "train" / "metadata.jsonl").write_text("{}")
    notes = read_pictures(DataOptions(folder=str(tmp_path / "set"), tag="sks"), 1).notes
    assert any("have no caption: metadata.csv, train/metadata.jsonl." in note for note in notes)


def test_texts_that_belong_to_no_picture_are_named_where_captions_are_missing(tmp_path: Path) -> None:
    folder = draw_pictures(tmp_path / "set" / "images", 2)
    (folder / "picture-0.txt").rename(folder / "picture-0 .txt")
    (tmp_path / "set" / "captions").mkdir()
    (tmp_path / "set" / "captions" / "picture-0.txt").write_text("a hat")
    (folder / "README.txt").write_text("by me")
    wanted = "beside them has their name: captions/picture-0.txt, images/picture-0 .txt."
    assert any(note.endswith(wanted) for note in read(folder=str(tmp_path / "set"), tag="sks").notes)
    heard: list[str] = []
    chosen = PrepareOptions(operations=("original",), workers=1, min_size=0)
    (folder / "picture-0.json").write_text("{}")
    prepare(tmp_path / "set", chosen, tmp_path / "work", note=heard.append)
    assert any(note.endswith(wanted) for note in heard)
    assert any("beside pictures without a caption: picture-0.json." in note for note in heard)
    (folder / "picture-0.txt").write_text("a hat")
    assert not any("Not read" in note for note in read(folder=str(tmp_path / "set"), tag="sks").notes)


def test_json_in_captions_is_named_and_invisible_characters_are_gone(tmp_path: Path) -> None:
    folder = draw_pictures(tmp_path / "set", 3)
    (folder / "picture-0.txt").write_text('{"caption": "a dog"}')
    (folder / "picture-1.txt").write_text("['a', 'b']")
    (folder / "picture-2.txt").write_text("red\u200b hat, {a|b}, [sic]", encoding="utf-8")
    found = read(folder=str(folder), tag="sks")
    wanted = (
        "The caption of picture-0.png, picture-1.png contains JSON, which is trained on literally: keep only the text."
    )
    assert wanted in found.notes
    assert captions(found)["picture-2.png"] == "sks, red hat, {a|b}, [sic]"


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-8-sig"])
def test_metadata_and_configs_as_windows_saves_them(folder: Path, tmp_path: Path, encoding: str) -> None:
    """PowerShell's `>` and Notepad write UTF-16; line ends are Windows'."""
    row = {"file_name": "5_sara/picture-0.png", "text": "été"}
    (folder / "metadata.jsonl").write_bytes((json.dumps(row, ensure_ascii=False) + "\r\n").encode(encoding))
    assert captions(read(folder=str(folder), tag="sks"))["picture-0.png"] == "sks, été"
    meta = tmp_path / "meta.json"
    meta.write_bytes(json.dumps({"5_sara/picture-1": {"caption": "été"}}, ensure_ascii=False).encode(encoding))
    assert captions(read(folder=str(folder), tag="sks", in_json=str(meta))) == {"picture-1.png": "sks, été"}
    config = tmp_path / "c.toml"
    config.write_bytes(
        f"[[datasets]]\r\n[[datasets.subsets]]\r\nimage_dir = '{folder / '5_sara'}'\r\n".encode(encoding)
    )
    assert len(read(dataset_config=str(config), tag="sks").pictures) == 4


def test_lines_of_metadata_that_match_nothing_are_counted(tmp_path: Path) -> None:
    folder = draw_pictures(tmp_path / "set", 2)
    (folder / "metadata.jsonl").write_text('{"file_name": "gone.png", "text": "x"}\n')
    notes = read_pictures(DataOptions(folder=str(folder), tag="sks"), 1).notes
    assert "metadata.jsonl: 1 line not used (gone.png: there is no such file)." in notes
    heard: list[str] = []
    prepare(folder, PrepareOptions(operations=("original",), workers=1), tmp_path / "work", note=heard.append)
    assert "metadata.jsonl: 1 line not used (gone.png: there is no such file)." in heard

"""The captions-and-tags stage: who is asked, when, and what becomes of what people wrote."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from lora_train.config import PrepareOptions
from lora_train.data.formats.kohya_metadata import read_metadata, rejected_file
from lora_train.data.scan import scan
from lora_train.errors import LoraTrainError, Stopped
from lora_train.pictures.captions import read_caption
from lora_train.prepare import Services, prepare
from tests.prepare.samples import noise

OPTIONS = PrepareOptions(operations=("original", "interrogate"), target=64, min_size=0, workers=1)


@dataclass
class Speaker:
    """A captioner that says the width of a picture, and notes what is done to it."""

    text: str
    asked: list[int] = field(default_factory=list)
    loaded: int = 0

    def __call__(self, pictures: Iterable[Image.Image]) -> Iterator[str]:
        self.loaded += 1
        try:
            for picture in pictures:
                self.asked.append(picture.width)
                yield self.text.format(width=picture.width)
        finally:
            self.loaded -= 1


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three pictures of different widths; the second has a caption."""
    folder = tmp_path / "10_sara"
    folder.mkdir()
    for number in range(3):
        noise(number, (100 + number, 80)).save(folder / f"{number}.png")
    (folder / "1.txt").write_text("by hand\n")
    return folder


def speakers() -> tuple[Speaker, Speaker, Services]:
    caption, tags = (
        Speaker("a picture {width} wide, of something"),
        Speaker(r"(long_hair:0.9), sara, hat_\(red\), 1girl"),
    )
    return caption, tags, Services(caption=caption, tags=tags)


def texts(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir() if path.suffix != ".png"}


def test_caption_and_tags_are_cleaned_cut_and_joined_with_the_tag_once(folder: Path, tmp_path: Path) -> None:
    caption, tags, services = speakers()
    stages: list[Any] = []
    prepared = prepare(
        folder,
        replace(OPTIONS, tag_limit=3),
        tmp_path / "work",
        services,
        lambda done, total: stages.append((done, total)),
        tag="sara",
        stage=stages.append,
    )
    assert texts(prepared.folder) == {
        "0.txt": "sara, picture 100 wide, long hair, hat (red)\n",
        "1.txt": "by hand\n",
        "2.txt": "sara, picture 102 wide, long hair, hat (red)\n",
    }
    assert sorted(caption.asked) == sorted(tags.asked) == [100, 102]
    assert stages[-8:] == ["captions", (0, 2), (1, 2), (2, 2), "tags", (0, 2), (1, 2), (2, 2)]
    # training puts the tag in front of what has none, and nowhere twice
    assert [p.caption for p in scan(prepared.folder, "sara").pictures] == [
        "sara, picture 100 wide, long hair, hat (red)",
        "sara, by hand",
        "sara, picture 102 wide, long hair, hat (red)",
    ]


def test_only_another_captioner_asks_again(folder: Path, tmp_path: Path) -> None:
    caption, tags, services = speakers()
    work = tmp_path / "work"
    prepare(folder, OPTIONS, work, services, tag="sara")
    caption.asked.clear()
    tags.asked.clear()
    changed = replace(OPTIONS, tag_limit=1, caption_template="{tags}, {caption}", tag_blacklist=("long*",))
    prepared = prepare(folder, changed, work, services, tag="other")
    assert (prepared.folder / "0.txt").read_text() == "sara, picture 100 wide\n"
    assert caption.asked == tags.asked == []
    prepare(folder, replace(OPTIONS, captioner="transformers", captioner_model="m"), work, services)
    assert len(caption.asked) == 2 and tags.asked == []
    prepare(folder, replace(OPTIONS, tag_threshold=0.5), work, services)
    assert len(caption.asked) == 2 and len(tags.asked) == 2


def test_captions_are_taken_over_as_utf8_with_their_lines_and_what_is_no_text_is_named(
    folder: Path, tmp_path: Path
) -> None:
    (folder / "0.txt").write_bytes("sks, 红色头发, 公园".encode("gbk"))
    (folder / "1.txt").rename(folder / "1.PNG.TXT")
    (folder / "1.PNG.TXT").write_bytes("un café\r\nune fille".encode("utf-16-le"))
    (folder / "2.txt").write_bytes("l’été\nthe other".encode("cp1252"))
    notes: list[str] = []
    prepared = prepare(folder, replace(OPTIONS, captioner="none", tagger="none"), tmp_path / "work", note=notes.append)
    assert texts(prepared.folder) == {"1.txt": "un café\nune fille\n", "2.txt": "l’été\nthe other\n"}
    assert notes == prepared.notes and len(notes) == 2
    assert "1 caption file cannot be read and counts as missing: 0.txt" in notes[0]
    assert "Windows-1252 (2.txt)" in notes[1]


def test_one_of_both_is_enough_and_none_is_said(folder: Path, tmp_path: Path) -> None:
    caption, tags, _ = speakers()
    notes: list[str] = []
    prepared = prepare(folder, OPTIONS, tmp_path / "a", Services(caption=caption), tag="x", note=notes.append)
    assert (prepared.folder / "0.txt").read_text() == "x, picture 100 wide\n"
    assert (
        notes == prepared.notes
        and len(notes) == 1
        and "No tags are listed" in notes[0]
        and "prepare.tagger" in notes[0]
    )
    prepared = prepare(folder, replace(OPTIONS, captioner="none"), tmp_path / "b", Services(caption=caption, tags=tags))
    assert (prepared.folder / "0.txt").read_text() == "long hair, sara, hat (red), 1girl\n" and not prepared.notes
    notes = prepare(folder, OPTIONS, tmp_path / "c").notes
    assert len(notes) == 2 and all("write .txt files" in note for note in notes)
    assert texts(tmp_path / "c" / "pictures" / "10_sara") == {"1.txt": "by hand\n"}


def test_recaption_and_backup(folder: Path, tmp_path: Path) -> None:
    (folder / "2.caption").write_text("also by hand")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    _, _, services = speakers()
    work = tmp_path / "work"
    prepared = prepare(folder, OPTIONS, work, services)
    assert set(texts(prepared.folder)) == {"0.txt", "1.txt", "2.caption"}
    (prepared.folder / "0.txt").write_text("my edit")
    prepared = prepare(folder, replace(OPTIONS, recaption=True, backup=True, tag_limit=1), work, services)
    assert texts(prepared.folder) == {
        "0.txt": "picture 100 wide, long hair\n",
        "0.txt.bak": "my edit",
        "1.txt": "picture 101 wide, long hair\n",
        "1.txt.bak": "by hand\n",
        "2.txt": "picture 102 wide, long hair\n",
        "2.caption.bak": "also by hand",
    }
    (prepared.folder / "1.txt").write_text("my other edit")
    prepared = prepare(folder, replace(OPTIONS, recaption=True, backup=True, tag_limit=1), work, services)
    assert (prepared.folder / "1.txt").read_text() == "my other edit"  # edited after it was captioned anew
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_stopping_unloads_the_model_and_keeps_what_was_said(folder: Path, tmp_path: Path) -> None:
    caption, tags, services = speakers()
    held: list[Iterator[str]] = []  # or Python itself would end it at once

    def hold(pictures: Iterable[Image.Image]) -> Iterator[str]:
        held.append(caption(pictures))
        return held[-1]

    services = replace(services, caption=hold)
    with pytest.raises(Stopped):
        prepare(folder, OPTIONS, tmp_path / "work", services, stopped=lambda: len(caption.asked) == 1)
    assert (caption.loaded, tags.loaded, len(caption.asked), tags.asked) == (0, 0, 1, [])
    prepare(folder, OPTIONS, tmp_path / "work", services)
    assert len(caption.asked) == 2


def test_a_captioner_that_says_too_little(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(LoraTrainError, match="there was no answer for 1 pictures"):
        prepare(folder, OPTIONS, tmp_path / "work", Services(caption=lambda pictures: iter(["one"])))


def test_the_metadata_file(folder: Path, tmp_path: Path) -> None:
    (folder / "broken.png").write_text("no picture")
    noise(5, (60, 40)).save(folder / "tiny.png")
    _, _, services = speakers()
    options = replace(OPTIONS, operations=("original", "range", "resize", "interrogate"), min_size=64, tag_limit=2)
    prepared = prepare(folder, options, tmp_path / "work", services, tag="sara")
    assert prepared.metadata == tmp_path / "work" / "metadata.json"
    told = read_metadata(prepared.metadata)
    assert {Path(key) for key in told} == {prepared.folder / f"{n}.png" for n in range(3)}
    one = told[str(prepared.folder / "0.png")]
    assert (one.caption, one.tags) == ("sara, picture 64 wide", "sara,long hair")
    assert one.image_size == (64, 51) and one.train_resolution == (64, 64)
    assert one.origin and one.origin.source == str(folder / "0.png") and one.origin.operation == "original"
    assert 0 < one.origin.scores["range"] <= 1 and not one.origin.reason
    assert told[str(prepared.folder / "1.png")].caption == "sara, by hand"
    rejected = read_metadata(rejected_file(prepared.metadata))
    reasons = {Path(entry.origin.source).name: entry.origin.reason for entry in rejected.values() if entry.origin}
    assert reasons["tiny.png"] == "the picture is only 60 px wide; needs 64; switch on upscale"
    assert "not a picture" in reasons["broken.png"] and len(rejected) == 2
    raw = json.loads(prepared.metadata.read_text())
    assert all(Path(key).is_absolute() and Path(key).is_file() for key in raw)


def test_an_edit_is_what_report_and_metadata_tell(folder: Path, tmp_path: Path) -> None:
    _, _, services = speakers()
    prepared = prepare(folder, OPTIONS, tmp_path / "work", services, tag="sara")
    (prepared.folder / "0.txt").write_text("sara, as I say")
    prepared = prepare(folder, OPTIONS, tmp_path / "work", services, tag="sara")
    assert prepared.metadata and prepared.report
    entry = read_metadata(prepared.metadata)[str(prepared.folder / "0.png")]
    assert (entry.caption, entry.tags) == ("sara, as I say", "")
    told = {line["file"]: line["caption"] for line in json.loads(prepared.report.read_text())["pictures"]}
    assert told["0.png"] == "sara, as I say" and told["1.png"] == "by hand"
    assert told["2.png"] == "sara, picture 102 wide, long hair, hat (red), 1girl"


def test_an_imagefolders_captions_come_along(folder: Path, tmp_path: Path) -> None:
    rows = [{"file_name": f"{n}.png", "text": f"row {n}"} for n in range(2)]
    (folder / "metadata.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    _, _, services = speakers()
    prepared = prepare(folder, OPTIONS, tmp_path / "work", services)
    assert texts(prepared.folder)["0.txt"] == "row 0\n" and texts(prepared.folder)["1.txt"] == "by hand\n"
    assert texts(prepared.folder)["2.txt"].startswith("picture 102 wide")


ACTIONS = st.sampled_from(["write in", "remove in", "edit out", "remove picture", "add picture", "prepare"])


@settings(max_examples=25)
@given(data=st.data())
def test_what_a_person_wrote_is_never_lost(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Whatever is done in whatever order: the input stays as it is, and an edited caption is there or in a `.bak`."""
    root = tmp_path_factory.mktemp("lost")
    folder, work = root / "in", root / "work"
    folder.mkdir()
    for number in range(3):
        noise(number, (40, 30)).save(folder / f"{number}.png")
    written: set[str] = set()
    for step in range(data.draw(st.integers(2, 7))):
        number, text = data.draw(st.integers(0, 2)), f"text of step {step}\n"
        action = data.draw(ACTIONS)
        output = work / "pictures" / "in" / f"{number}.txt"
        if action == "write in":
            (folder / f"{number}{data.draw(st.sampled_from(['.txt', '.caption']))}").write_text(text)
        elif action == "remove in":
            (folder / f"{number}.txt").unlink(missing_ok=True)
        elif action == "edit out" and output.is_file():
            written.discard(output.read_text())
            output.write_text(text)
            written.add(text)
        elif action == "remove picture":
            (folder / f"{number}.png").unlink(missing_ok=True)
        elif action == "add picture":
            noise(number, (40, 30)).save(folder / f"{number}.png")
        if not list(folder.glob("*.png")):
            noise(0, (40, 30)).save(folder / "0.png")
        before = {path.name: path.read_bytes() for path in folder.iterdir()}
        said = data.draw(st.sampled_from(["one", "two"]))
        options = replace(
            OPTIONS,
            captioner="transformers",
            captioner_model=said,
            tagger="none",
            recaption=data.draw(st.booleans()),
            backup=data.draw(st.booleans()),
        )
        prepare(folder, options, work, Services(caption=Speaker(said)))
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
        there = {path.read_text() for path in (work / "pictures").rglob("*.txt*")}
        assert written <= there
        assert all(read_caption(picture) for picture in (work / "pictures").rglob("*.png"))

from __future__ import annotations

import json
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_train.data.formats.imagefolder import ImageFolder, read_imagefolder
from lora_train.errors import LoraTrainError
from lora_train.pictures.texts import NotText, decode_whole


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Empty files named as pictures: nobody opens them here."""
    folder = tmp_path / "dataset"
    (folder / "sub").mkdir(parents=True)
    for name in ("a.png", "b.JPG", "sub/c.webp", "sub/d.png", "e.csv", "../outside.png"):
        (folder / name).touch()
    (folder / "link.png").symlink_to(tmp_path / "outside.png")
    return folder


def _write(folder: Path, *rows: object) -> Path:
    file = folder / "metadata.jsonl"
    file.write_text("\n".join(json.dumps(row) for row in rows) + "\n\n", encoding="utf-8-sig")
    return file


def test_captions_by_any_column_in_order(folder: Path) -> None:
    rows = (
        {"file_name": "b.JPG", "text": "first\n line", "label": 3},
        {"file_name": "a.png", "caption": "été", "text": None},
        {"file_name": "sub/c.webp", "prompt": "p"},
        {"file_name": "./sub/d.png", "text": "wins", "caption": "loses", "prompt": 1},
    )
    found = read_imagefolder(_write(folder, *rows))
    assert list(found.captions.values()) == ["first\nline", "été", "p", "wins"]
    assert [path.name for path in found.captions] == ["b.JPG", "a.png", "c.webp", "d.png"]
    assert not found.rejected


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("../outside.png", "outside"),
        ("sub/../../outside.png", "outside"),
        ("/etc/passwd", "outside"),
        ("C:\\x.png", "outside"),
        ("\\\\server\\x.png", "outside"),
        ("link.png", "outside"),
        ("z.png", "no such file"),
        ("sub", "no such file"),
        ("x\0.png", "no such file"),
        ("y" * 5000, "no such file"),
        ("e.csv", "not supported"),
    ],
)
def test_what_cannot_be_used_is_told(folder: Path, name: str, reason: str) -> None:
    found = read_imagefolder(_write(folder, {"file_name": name, "text": "x"}, {"file_name": "a.png", "text": "y"}))
    assert [reason in rejected.reason for rejected in found.rejected] == [True]
    assert list(found.captions.values()) == ["y"]


def test_paths_of_another_computer_mean_the_picture_with_the_longest_equal_end(folder: Path) -> None:
    (folder / "sub" / "a.png").touch()
    rows = [
        {"file_name": name, "text": name}
        for name in ("C:\\Users\\me\\sub\\a.png", "/content/drive/b.jpg", "train/sub/c.webp", "D:\\gone\\nine.png")
    ]
    found = read_imagefolder(_write(folder, *rows))
    named = {path.relative_to(folder).as_posix(): text for path, text in found.captions.items()}
    assert named == {"sub/a.png": rows[0]["text"], "b.JPG": rows[1]["text"], "sub/c.webp": rows[2]["text"]}
    assert len(found.rejected) == 1


@pytest.mark.parametrize(
    "line",
    [
        "{",
        "1",
        "{}",
        '{"file_name": 1, "text": "x"}',
        '{"file_name": "a.png"}',
        '{"file_name": "a.png", "text": 5}',
        "[" * 50_000,
    ],
)
def test_other_files_are_refused(folder: Path, line: str) -> None:
    file = folder / "metadata.jsonl"
    file.write_text('{"file_name": "a.png", "text": "fine"}\n' + line)
    with pytest.raises(LoraTrainError, match="line 2"):
        read_imagefolder(file)


def test_what_cannot_be_read(folder: Path) -> None:
    with pytest.raises(LoraTrainError, match="cannot read"):
        read_imagefolder(folder / "nowhere.jsonl")
    (folder / "metadata.jsonl").write_bytes(b"\xff")
    with pytest.raises(LoraTrainError, match=r"not a metadata\.jsonl"):
        read_imagefolder(folder / "metadata.jsonl")


COLUMNS = st.sampled_from(["file_name", "text", "caption", "prompt"])
NAMES = st.sampled_from(["a.png", "in/b.png", "../c.png", "C:/x/a.png", "nowhere.png", "words, more words", ""])


@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
def test_any_bytes_are_read_or_refused(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    """What is refused names the line; what is not has nothing in it."""
    file = tmp_path_factory.getbasetemp() / "any.jsonl"
    file.write_bytes(data)
    try:
        found = read_imagefolder(file)
    except LoraTrainError as error:
        assert str(error).startswith(f"{file}: line ")
        with suppress(NotText):
            assert decode_whole(data).strip(), "there is nothing to refuse"
    else:
        assert found == ImageFolder() and not decode_whole(data).strip()


@given(st.lists(st.dictionaries(COLUMNS, st.none() | st.integers() | NAMES, max_size=3), max_size=4))
def test_any_rows_are_read_or_refused(tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]]) -> None:
    """Each picture that is named is read once, or rejected with a reason; none lies outside the folder."""
    folder = tmp_path_factory.getbasetemp() / "rows"
    (folder / "in").mkdir(parents=True, exist_ok=True)
    for place in (folder / "a.png", folder / "in" / "b.png", folder.parent / "c.png"):
        place.touch()
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    try:
        found = read_imagefolder(folder / "metadata.jsonl")
    except LoraTrainError as error:
        line = int(re.search(r"line (\d+)", str(error))[1])  # type: ignore[index]
        named, said = (
            rows[line - 1].get("file_name"),
            [rows[line - 1].get(one) for one in ("text", "caption", "prompt")],
        )
        first = next((one for one in said if one is not None), None)
        assert not (isinstance(named, str) and named and isinstance(first, str))
        return
    names = {str(row["file_name"]) for row in rows}
    assert set(found.captions) <= {folder / "a.png", folder / "in" / "b.png"}
    assert all(one.reason for one in found.rejected)
    assert len(found.captions) + len(found.rejected) <= len(names)
    for name in ("a.png", "in/b.png"):
        assert (folder / name in found.captions) or name not in names

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from lora_train.data.formats.kohya_metadata import (
    KeyStyle,
    MetadataEntry,
    Origin,
    find_picture,
    metadata_key,
    read_metadata,
    rejected_file,
    write_metadata,
)
from lora_train.errors import LoraTrainError

GOLDEN = Path(__file__).parents[2] / "golden" / "kohya_metadata.json"
ENTRIES = {
    "10_sara/a": MetadataEntry(
        "woman in a park",
        "red hair,hat",
        (512, 448),
        (1024, 900),
        Origin("input/a.jpg", "face", (10, 20, 522.5, 532), {"face": 0.93, "blur": 1.25}),
    ),
    "10_sara/été": MetadataEntry("", "1girl", (512, 512), None, Origin("input/b.png", "original")),
}


def test_what_we_write_is_what_sd_scripts_was_seen_to_read(tmp_path: Path) -> None:
    write_metadata(tmp_path / "meta.json", ENTRIES)
    assert (tmp_path / "meta.json").read_bytes() == GOLDEN.read_bytes()
    assert read_metadata(GOLDEN) == ENTRIES


def test_what_sd_scripts_writes_is_read(tmp_path: Path) -> None:
    """As its merge and bucket scripts write it: ASCII, keys with or without a path, parts missing."""
    kohyas = {
        "a": {"caption": "été", "tags": "1girl, hat", "train_resolution": [512, 448]},
        "/data/b.png": {"tags": "1girl"},
        "c": {},
        "d": {"caption": None, "image_size": [10, 20]},
    }
    (tmp_path / "meta.json").write_text(json.dumps(kohyas, indent=2))
    assert read_metadata(tmp_path / "meta.json") == {
        "a": MetadataEntry("été", "1girl, hat", (512, 448)),
        "/data/b.png": MetadataEntry("", "1girl"),
        "c": MetadataEntry(),
        "d": MetadataEntry(image_size=(10, 20)),
    }


def test_of_several_texts_the_first_counts_and_single_tags_are_joined(tmp_path: Path) -> None:
    told = {"a": {"caption": ["first, one", "second"], "tags": ["1girl", "hat"]}, "b": {"tags": ["1girl, hat", "cat"]}}
    (tmp_path / "meta.json").write_text(json.dumps(told))
    found = read_metadata(tmp_path / "meta.json")
    assert found["a"] == MetadataEntry("first, one", "1girl, hat") and found["b"].tags == "1girl, hat"


def test_a_rewrite_keeps_what_others_added_and_drops_what_is_gone(tmp_path: Path) -> None:
    file = tmp_path / "meta.json"
    write_metadata(file, ENTRIES)
    data = json.loads(file.read_text())
    data["10_sara/a"]["score"] = 7
    data["10_sara/a"]["lora_train"]["overruled"] = True
    data["theirs"] = {"caption": "not ours"}
    file.write_text(json.dumps(data))
    write_metadata(file, {"10_sara/a": replace(ENTRIES["10_sara/a"], caption="", train_resolution=None)})
    after = json.loads(file.read_text())
    assert set(after) == {"10_sara/a", "theirs"}
    assert after["theirs"] == {"caption": "not ours"}
    assert "caption" not in after["10_sara/a"] and after["10_sara/a"]["score"] == 7
    assert after["10_sara/a"]["train_resolution"] == [512, 448]
    assert after["10_sara/a"]["lora_train"]["overruled"] is True


def test_rejected_pictures_are_told_beside(tmp_path: Path) -> None:
    """sd-scripts would look for a picture of each key."""
    file = tmp_path / "meta.json"
    bad = MetadataEntry(origin=Origin("input/c.jpg", "face", None, {"face": 0.1}, "no face found"))
    write_metadata(file, ENTRIES | {"10_sara/c": bad})
    assert set(read_metadata(file)) == set(ENTRIES)
    assert rejected_file(file).name == "meta.rejected.json"
    assert read_metadata(rejected_file(file)) == {"10_sara/c": bad}
    write_metadata(file, ENTRIES)
    assert read_metadata(rejected_file(file)) == {}


@pytest.mark.parametrize(
    ("style", "expected"), [("stem", "10_sara/b.c"), ("name", "10_sara/b.c.png"), ("path", "{root}/10_sara/b.c.png")]
)
def test_keys_lead_back_to_their_pictures(tmp_path: Path, style: KeyStyle, expected: str) -> None:
    picture = tmp_path / "10_sara" / "b.c.png"
    picture.parent.mkdir()
    Image.new("RGB", (8, 8)).save(picture)
    key = metadata_key(picture, tmp_path, style)
    assert key == expected.format(root=tmp_path)
    assert find_picture(key, tmp_path) == picture
    assert find_picture("10_sara\\b.c", tmp_path) == picture


@pytest.mark.parametrize("key", ["../a", "../a.png", "/etc/passwd", "", ".", "x\0", "y" * 5000, "10_sara", "link"])
def test_no_key_leads_out_of_the_folder(tmp_path: Path, key: str) -> None:
    inside = tmp_path / "in"
    (inside / "10_sara").mkdir(parents=True)
    (tmp_path / "a.png").touch()
    (inside / "link.png").symlink_to(tmp_path / "a.png")
    assert find_picture(key, inside) is None
    assert find_picture(str(tmp_path / "a.png"), inside) is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "null",
        '{"a": 1}',
        '{"a": {"caption": 1}}',
        '{"a": {"tags": ["x", 1]}}',
        '{"a": {"caption": {"x": 1}}}',
        '{"a": {"caption": ["x", null]}}',
        '{"a": {"train_resolution": [1]}}',
        '{"a": {"train_resolution": [1, 0.5]}}',
        '{"a": {"image_size": "x"}}',
        '{"a": {"lora_train": 1}}',
        '{"a": {"lora_train": {"box": "x"}}}',
        '{"a": {"lora_train": {"scores": {"x": "y"}}}}',
        '{"a": {"lora_train": {"reason": null}}}',
        "\xff",
        "[" * 100_000,
    ],
)
def test_other_files_are_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "meta.json"
    file.write_bytes(text.encode("latin-1"))
    with pytest.raises(LoraTrainError, match=r"meta\.json"):
        read_metadata(file)


def test_a_damaged_file_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "meta.json").write_text("{ half")
    with pytest.raises(LoraTrainError, match="not a metadata file"):
        write_metadata(tmp_path / "meta.json", ENTRIES)
    assert (tmp_path / "meta.json").read_text() == "{ half"
    with pytest.raises(LoraTrainError, match="cannot read"):
        read_metadata(tmp_path / "nowhere.json")


json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["a", "caption", "tags", "image_size", "lora_train", "box", "scores", "source"]), inner
        )
    ),
    max_leaves=12,
)


@given(json_values)
def test_any_json_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, value: object) -> None:
    """What is read has the types that it says; what is refused names the file and what to do."""
    file = tmp_path_factory.getbasetemp() / "any.json"
    file.write_text(json.dumps(value))
    entries_of_text = isinstance(value, dict) and all(one == {} for one in value.values())
    try:
        found = read_metadata(file)
    except LoraTrainError as error:
        assert str(file) in str(error) and error.problems[0].what and not entries_of_text
        return
    assert isinstance(value, dict) and found.keys() == value.keys()
    for entry in found.values():
        assert isinstance(entry.caption, str) and isinstance(entry.tags, str)
        for size in filter(None, (entry.train_resolution, entry.image_size)):
            assert len(size) == 2 and all(type(side) is int and side > 0 for side in size)


def test_names_and_texts_that_are_not_utf8_come_back(tmp_path: Path) -> None:
    """JSON can spell half a character, which is what a name of other bytes is here; sd-scripts reads it, too."""
    entries = {"\udcff.png": MetadataEntry("half \udcff")}
    write_metadata(tmp_path / "meta.json", entries)
    assert {key: entry.caption for key, entry in read_metadata(tmp_path / "meta.json").items()} == {
        "\udcff.png": "half \udcff"
    }
    assert json.loads((tmp_path / "meta.json").read_bytes()).keys() == entries.keys()


def test_a_damaged_file_is_to_be_moved_away(tmp_path: Path) -> None:
    (tmp_path / "meta.json").write_text("[")
    with pytest.raises(LoraTrainError, match="move it away"):
        write_metadata(tmp_path / "meta.json", {"a": MetadataEntry()})

"""Datasets of other tools in and out; what is written is looked at with other readers than ours."""

from __future__ import annotations

import errno
import json
import tarfile
from pathlib import Path
from typing import IO

import pytest
from PIL import Image

from lora_train.data.exchange import export_dataset, import_dataset
from lora_train.data.scan import Manifest, scan
from lora_train.errors import LoraTrainError
from tests.conftest import draw_pictures


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two concepts with repeats, captions of all kinds, a broken picture."""
    folder = tmp_path / "in"
    draw_pictures(folder / "3_sara", 2)
    draw_pictures(folder / "hat", 2, ((96, 64),))
    (folder / "hat" / "picture-0.txt").rename(folder / "hat" / "picture-0.caption")
    (folder / "hat" / "picture-1.txt").write_text('rot "grün", 🐼 \\ {x}\n', encoding="utf-8")
    (folder / "hat" / "broken.png").write_text("no picture")
    return folder


def facts(manifest: Manifest) -> list[tuple[str, int, str, tuple[int, int]]]:
    return sorted((p.concept, p.repeats, p.caption, (p.width, p.height)) for p in manifest.pictures)


@pytest.mark.parametrize("name", ["meta.json", "data.toml", "in/metadata.jsonl"])
def test_there_and_back(folder: Path, tmp_path: Path, name: str) -> None:
    if name.endswith(".toml"):
        pytest.importorskip("tomllib")
        assert "1 captions do not end in" in export_dataset(folder, tmp_path / "first.toml").notes[0]
        (folder / "hat" / "picture-0.caption").rename(folder / "hat" / "picture-0.txt")
    before = facts(scan(folder, repeats=1))
    exported = export_dataset(folder, tmp_path / name)
    assert [one.path.name for one in exported.rejected] == ["broken.png"] and not exported.notes
    import_dataset(tmp_path / name, tmp_path / "out", folder)
    assert facts(scan(tmp_path / "out")) == before


def test_a_shard_there_and_back(folder: Path, tmp_path: Path) -> None:
    before = facts(scan(folder, repeats=1))
    export_dataset(folder, tmp_path / "all.tar", tag="")
    manifest = import_dataset(tmp_path / "all.tar", tmp_path / "out")
    assert sorted(one[2:] for one in facts(manifest)) == sorted(one[2:] for one in before)


def test_others_read_it(folder: Path, tmp_path: Path) -> None:
    captions = {p.path.name + p.concept: p.caption for p in scan(folder, "sks").pictures}
    export_dataset(folder, folder / "metadata.jsonl", "sks")
    rows = [json.loads(line) for line in (folder / "metadata.jsonl").read_text(encoding="utf-8").splitlines()]
    assert {row["text"] for row in rows} == set(captions.values())
    assert all(Image.open(folder / row["file_name"]) for row in rows)
    export_dataset(folder, tmp_path / "meta.json", "sks")
    content = json.loads((tmp_path / "meta.json").read_text(encoding="utf-8"))
    assert {entry["caption"] for entry in content.values()} == set(captions.values())
    assert all(list(Image.open(key).size) == entry["image_size"] for key, entry in content.items())
    export_dataset(folder, tmp_path / "all.tar", "sks")
    with tarfile.open(tmp_path / "all.tar", "r:") as tar:
        names = tar.getnames()
        assert len(names) == 8 and [Path(n).suffix for n in names[:2]] == [".png", ".txt"]
        texts = {tar.extractfile(n).read().decode() for n in names if n.endswith(".txt")}  # type: ignore[union-attr]
    assert texts == set(captions.values())


def test_a_dataset_config_is_toml(folder: Path, tmp_path: Path) -> None:
    tomllib = pytest.importorskip("tomllib")
    odd = folder / '5_a "b" \\c é'
    draw_pictures(odd, 1)
    export_dataset(folder, tmp_path / "data.toml")
    content = tomllib.loads((tmp_path / "data.toml").read_text(encoding="utf-8"))
    subsets = {Path(one["image_dir"]).name: one for one in content["datasets"][0]["subsets"]}
    assert subsets["3_sara"]["num_repeats"] == 3 and subsets["3_sara"]["caption_extension"] == ".txt"
    assert subsets[odd.name]["image_dir"] == str(odd) and content["general"]["enable_bucket"] is True


def test_equal_names_do_not_meet(tmp_path: Path) -> None:
    for number, name in enumerate(("one", "two")):
        draw_pictures(tmp_path / name / "3_sara", 1, ((64, 64 + 64 * number),))
    rows = [{"file_name": f"{name}/3_sara/picture-0.png", "text": name} for name in ("one", "two")]
    (tmp_path / "metadata.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    assert facts(import_dataset(tmp_path / "metadata.jsonl", tmp_path / "out")) == [
        ("sara", 3, "one", (64, 64)),
        ("sara", 3, "two", (64, 128)),
    ]


@pytest.mark.parametrize("name", ["out.tar", "in/metadata.jsonl"])
def test_captions_of_an_imagefolder_are_not_lost(tmp_path: Path, name: str) -> None:
    draw_pictures(tmp_path / "in", 1)
    (tmp_path / "in" / "picture-0.txt").unlink()
    text = '{"file_name": "picture-0.png", "text": "my own words", "rating": 5}\n'
    (tmp_path / "in" / "metadata.jsonl").write_text(text)
    assert export_dataset(tmp_path / "in", tmp_path / name).pictures[0].caption == "my own words"
    assert import_dataset(tmp_path / name, tmp_path / "out").pictures[0].caption == "my own words"
    kept = "metadata.jsonl.bak" if name.startswith("in/") else "metadata.jsonl"
    assert (tmp_path / "in" / kept).read_text() == text


def test_a_full_disk_leaves_no_half_picture(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(data: IO[bytes], copy: IO[bytes]) -> None:
        copy.write(data.read(100))
        raise OSError(errno.ENOSPC, "No space left on device")

    def another_disk(*_: object) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr("shutil.copyfileobj", full)
    monkeypatch.setattr("os.link", another_disk)
    with pytest.raises(LoraTrainError, match="No space left"):
        import_dataset(folder, tmp_path / "out")
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]


def test_what_is_passed_over_is_told(tmp_path: Path) -> None:
    draw_pictures(tmp_path / "in", 1)
    Image.new("RGB", (64, 64)).save(tmp_path / "secret.png")
    rows = [{"file_name": name, "text": "x"} for name in ("picture-0.png", "../secret.png", "gone.png")]
    (tmp_path / "in" / "metadata.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    manifest = import_dataset(tmp_path / "in" / "metadata.jsonl", tmp_path / "out")
    assert len(manifest.pictures) == 1 and len(manifest.rejected) == 2


def test_nothing_is_replaced(folder: Path, tmp_path: Path) -> None:
    export_dataset(folder, tmp_path / "meta.json")
    with pytest.raises(LoraTrainError, match="not empty"):
        import_dataset(tmp_path / "meta.json", folder)
    with pytest.raises(LoraTrainError, match="no such file"):
        import_dataset(tmp_path / "nowhere.json", tmp_path / "out")
    with pytest.raises(LoraTrainError, match="which format"):
        export_dataset(folder, tmp_path / "meta.xml")
    with pytest.raises(LoraTrainError, match="not below this file's folder"):
        export_dataset(folder, tmp_path / "elsewhere" / "metadata.jsonl")


def test_masks_come_along(tmp_path: Path) -> None:
    draw_pictures(tmp_path / "in" / "3_a", 2)
    draw_pictures(tmp_path / "in" / "masks" / "3_a", 1)
    manifest = import_dataset(tmp_path / "in", tmp_path / "out")
    assert len(manifest.pictures) == 2
    assert {of.name: mask.name for of, mask in manifest.beside.items()} == {"picture-0.png": "picture-0-masklabel.png"}

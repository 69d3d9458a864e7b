"""webdataset's shards, unpacked at the door of the command line."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import pytest

from lora_train.cli import main
from lora_train.data.scan import scan
from lora_train.data.shards import shard_files, unpack
from tests.conftest import draw_pictures


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """Two shards with equal keys, one of them with a member that leads outside."""
    folder = tmp_path / "set"
    folder.mkdir()
    draw_pictures(tmp_path / "in", 2)
    for shard, number in (("a", 0), ("b", 1)):
        with tarfile.open(folder / f"{shard}.tar", "w") as tar:
            tar.add(tmp_path / "in" / f"picture-{number}.png", "x/one.seg.png")
            tar.add(tmp_path / "in" / f"picture-{number}.txt", "x/one.txt")
            if shard == "b":
                evil = tarfile.TarInfo("../../evil.png")
                evil.size = 3
                tar.addfile(evil, io.BytesIO(b"abc"))
    return folder


def test_each_becomes_a_folder_of_pictures_with_captions(shards: Path, tmp_path: Path) -> None:
    target = unpack(shards, tmp_path / "data")
    manifest = scan(target)
    assert [p.caption for p in manifest.pictures] == ["sks on colour 0", "sks on colour 1"]
    assert {p.path.parent.name for p in manifest.pictures} == {"a", "b"}
    assert [(p.width, p.height) for p in manifest.pictures] == [(128, 128)] * 2
    assert not list(tmp_path.rglob("evil*"))
    before = {path: path.stat().st_mtime_ns for path in target.rglob("*")}
    assert unpack(shards, tmp_path / "data") == target
    assert {path: path.stat().st_mtime_ns for path in target.rglob("*")} == before
    os.utime(shards / "a.tar", (1, 1))
    assert unpack(shards, tmp_path / "data") != target


def test_pictures_beside_them_win(shards: Path, tmp_path: Path) -> None:
    assert len(shard_files(shards)) == 2
    draw_pictures(shards, 1)
    assert shard_files(shards) == [] == shard_files(tmp_path / "nowhere")


def test_on_the_command_line(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LORA_TRAIN_DATA", str(tmp_path / "data"))
    command = ["prepare", "--input", str(shards), "--process", "original,resize", "--target", "64"]
    assert main(command) == 0
    assert "2 pictures kept" in capsys.readouterr().out
    (shards / "a.tar").write_bytes((shards / "a.tar").read_bytes()[:700])
    assert main(command) == 2
    assert "a.tar" in capsys.readouterr().err

"""`lora-train captions` and `lora-train dataset`."""

from __future__ import annotations

from pathlib import Path

import pytest

from lora_train.cli import main
from lora_train.data.scan import scan
from tests.conftest import draw_pictures


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LORA_TRAIN_DATA", str(tmp_path / "data"))
    folder = draw_pictures(tmp_path / "in", 2)
    (folder / "picture-0.txt").write_text("Hat, red hair, hat\n")
    (folder / "picture-1.txt").write_text("red hair, sky\n")
    return folder


def texts(folder: Path) -> list[str]:
    return [(folder / f"picture-{number}.txt").read_text() for number in range(2)]


@pytest.mark.parametrize(
    ("command", "after"),
    [
        (["add", "sara, hat"], ["sara, hat, red hair\n", "sara, hat, red hair, sky\n"]),
        (["add", "sara", "--at", "back"], ["Hat, red hair, hat, sara\n", "red hair, sky, sara\n"]),
        (["remove", "HAT"], ["red hair\n", "red hair, sky\n"]),
        (["replace", "(red) hair", "\\1"], ["Hat, red, hat\n", "red, sky\n"]),
        (["dedupe"], ["Hat, red hair\n", "red hair, sky\n"]),
        (["blacklist", "red *, sk*"], ["Hat, hat\n", "\n"]),
        (["order", "alphabetical"], ["Hat, hat, red hair\n", "red hair, sky\n"]),
        (["order", "first", "--first", "sky, red hair"], ["red hair, Hat, hat\n", "sky, red hair\n"]),
    ],
)
def test_each_edit_its_dry_run_and_its_undo(
    folder: Path, command: list[str], after: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    before = texts(folder)
    assert main(["captions", str(folder), *command, "--dry-run"]) == 0
    told = capsys.readouterr().out
    changed = [new for old, new in zip(before, after) if old != new]
    assert texts(folder) == before and all(f"+ {text.strip()}" in told for text in changed)
    assert main(["captions", str(folder), *command]) == 0 and texts(folder) == after
    assert main(["captions", str(folder), "undo"]) == 0 and texts(folder) == before


def test_frequency_and_errors(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["captions", str(folder), "frequency"]) == 0
    assert capsys.readouterr().out.split("\n")[:3] == ["     2  red hair", "     1  hat", "     1  sky"]
    wide = next(iter(sorted(folder.rglob("*.txt"))))
    wide.write_bytes("a hat".encode("utf-16"))
    assert main(["captions", str(folder), "frequency"]) == 0
    assert f"not counted: {wide}: it is not UTF-8 text" in capsys.readouterr().err
    for command in (["replace", "(", "x"], ["undo"], ["remove", " "]):
        assert main(["captions", str(folder), *command]) == 2
    assert main(["captions", str(folder / "nowhere"), "frequency"]) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_pictures_without_a_caption_file_are_counted(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "picture-0.txt").unlink()
    for command in (["add", "x"], ["add", "y", "--dry-run"], ["frequency"]):
        assert main(["captions", str(folder), *command]) == 0
        assert "note: 1 picture has no caption file: picture-0.png." in capsys.readouterr().err
    assert not (folder / "picture-0.txt").exists()


def test_the_page_and_the_command_line_share_the_undo(folder: Path) -> None:
    from lora_train.config import PrepareOptions
    from lora_train.hosts.standalone import StandaloneHost
    from lora_train.runs.service import Service

    datasets = Service(StandaloneHost()).datasets
    id = datasets.start(str(folder), PrepareOptions(operations=("original",), min_size=0, workers=1))
    assert datasets.wait(60)
    pictures = datasets.get(id).pictures
    assert main(["captions", str(pictures), "add", "sara"]) == 0
    assert datasets.get(id).undoable() == "add in front: sara"
    datasets.get(id).undo()
    assert texts(pictures) == texts(folder)


def test_import_and_export(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dataset", "export", str(folder), str(tmp_path / "meta.json"), "--tag", "sara"]) == 0
    out = tmp_path / "out"
    assert main(["dataset", "import", str(tmp_path / "meta.json"), str(out), "--pictures", str(folder)]) == 0
    assert "2 pictures" in capsys.readouterr().out
    assert [picture.caption for picture in scan(out).pictures] == ["sara, Hat, red hair", "sara, red hair, sky"]
    assert main(["dataset", "import", str(tmp_path / "meta.json"), str(out)]) == 2
    assert "not empty" in capsys.readouterr().err

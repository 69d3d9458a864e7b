from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lora_train import atomic
from lora_train.captions import journal as journaling
from lora_train.captions.edit import Edit, add, blacklist, deduplicate, remove, reorder, replace
from lora_train.captions.journal import count_tags, edit_captions, history, preview_edits, undo
from lora_train.errors import LoraTrainError

FIRST = {
    "a.txt": b"woman, red hair, hat\n",
    "b.caption": "\ufeffwoman,  hat , été\r\n".encode(),
    "10_sara/c.txt": b"two\nlines, woman",
    "10_sara/d.txt": b"",
    "notes.txt": b"woman: my notes, not a caption",
}


def _folder(root: Path) -> Path:
    folder = root / "pictures"
    for name, data in FIRST.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
        if name != "notes.txt":
            file.with_suffix(".PNG").touch()
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Pictures (empty: nobody looks) with captions as people write them, and a text file that is none."""
    return _folder(tmp_path)


def _contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file() and path.suffix != ".PNG")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def test_an_edit_and_its_undo(folder: Path, tmp_path: Path) -> None:
    log = tmp_path / "journal"
    report = edit_captions(folder, [add(["sara"]), remove(["hat"])], log)
    assert len(report.changed) == 4 and not report.skipped
    after = _contents(folder)
    assert after["a.txt"] == b"sara, woman, red hair\n"
    assert after["b.caption"] == "sara, woman, été\n".encode()
    assert after["10_sara/c.txt"] == b"sara, two\nsara, lines, woman\n"
    assert after["10_sara/d.txt"] == b"sara\n"
    assert after["notes.txt"] == FIRST["notes.txt"]
    assert [entry.name for entry in history(folder, log)] == ["add in front: sara; remove: hat"]
    assert len(undo(folder, log).changed) == 4
    assert _contents(folder) == FIRST and history(folder, log) == []
    with pytest.raises(LoraTrainError, match="no edit to undo"):
        undo(folder, log)


def test_preview_and_frequency_write_nothing(folder: Path) -> None:
    changes, _ = preview_edits(folder, [replace("woman", "girl")])
    assert {change.file.name: change.after for change in changes}["a.txt"] == "girl, red hair, hat\n"
    assert count_tags(folder)[0] == {"woman": 3, "hat": 2, "red hair": 1, "été": 1, "two": 1, "lines": 1}
    assert _contents(folder) == FIRST


def test_an_edit_that_changes_nothing_is_not_journaled(folder: Path, tmp_path: Path) -> None:
    assert edit_captions(folder, [remove(["dog"])], tmp_path / "journal").changed == []
    assert _contents(folder) == FIRST and history(folder, tmp_path / "journal") == []


def test_what_somebody_wrote_since_is_kept(folder: Path, tmp_path: Path) -> None:
    log = tmp_path / "journal"
    edit_captions(folder, [add(["sara"])], log)
    for text in ("mine", "mine again"):
        (folder / "a.txt").write_text(text)
        (folder / "b.caption").unlink()
        assert undo(folder, log).backups
        edit_captions(folder, [add(["sara"])], log)
    undo(folder, log)
    left = _contents(folder)
    assert left.pop("a.txt.bak") == b"mine" and left.pop("a.txt.bak2") == b"mine again"
    assert left == FIRST


def test_a_failure_half_way_is_rolled_back(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[Path] = []

    def full(path: Path, data: bytes, sync: bool = True) -> None:
        written.append(path)
        if len(written) == 3:
            raise LoraTrainError("cannot write the file: no space left.", str(path))
        atomic.write_bytes(path, data)

    monkeypatch.setattr(journaling, "write_bytes", full)
    with pytest.raises(LoraTrainError, match="no space left"):
        edit_captions(folder, [add(["sara"])], tmp_path / "journal")
    assert _contents(folder) == FIRST and history(folder, tmp_path / "journal") == []


def test_a_crash_half_way_is_undone_after_the_restart(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process is gone: no roll-back runs, and the next undo finds some files written and some not."""
    log = tmp_path / "journal"
    written: list[Path] = []

    def cut(path: Path, data: bytes, sync: bool = True) -> None:
        written.append(path)
        if len(written) > 2:
            raise KeyboardInterrupt
        atomic.write_bytes(path, data)

    with monkeypatch.context() as patch:
        patch.setattr(journaling, "write_bytes", cut)
        with pytest.raises(KeyboardInterrupt):
            edit_captions(folder, [add(["sara"])], log)
    assert 0 < sum(_contents(folder)[name] != data for name, data in FIRST.items()) < 4
    undo(folder, log)
    assert _contents(folder) == FIRST


def test_a_file_that_changes_under_the_edit_is_not_touched(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(path: Path, data: bytes, sync: bool = True) -> None:
        (folder / "b.caption").write_bytes(b"meanwhile")
        atomic.write_bytes(path, data)

    monkeypatch.setattr(journaling, "write_bytes", slow)
    with pytest.raises(LoraTrainError, match="changed while it was edited"):
        edit_captions(folder, [add(["sara"])], tmp_path / "journal")
    assert _contents(folder) == FIRST | {"b.caption": b"meanwhile"}


def test_links_and_other_encodings_are_left_alone(folder: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside.txt"
    outside.write_text("woman")
    (folder / "a.txt").unlink()
    (folder / "a.txt").symlink_to(outside)
    (folder / "b.caption").write_bytes("été".encode("latin-1"))
    report = edit_captions(folder, [add(["sara"])], tmp_path / "journal")
    assert {rejected.path.name for rejected in report.skipped} == {"a.txt", "b.caption"}
    assert outside.read_text() == "woman"
    (folder / "10_sara" / "c.txt").unlink()
    (folder / "10_sara" / "c.txt").symlink_to(outside)
    assert [rejected.path.name for rejected in undo(folder, tmp_path / "journal").skipped] == ["c.txt"]
    assert outside.read_text() == "woman"


def test_one_journal_serves_several_folders(folder: Path, tmp_path: Path) -> None:
    other = _folder(tmp_path / "other")
    log = tmp_path / "journal"
    edit_captions(folder, [add(["one"])], log)
    edit_captions(other, [add(["two"])], log)
    undo(folder, log)
    assert _contents(folder) == FIRST and _contents(other) != FIRST
    undo(other, log)
    assert _contents(other) == FIRST


@pytest.mark.parametrize("path", ["../outside.txt", "/etc/hostname.txt", "a/../../outside.txt", "a.png", "link/x.txt"])
def test_a_journal_cannot_write_elsewhere(folder: Path, tmp_path: Path, path: str) -> None:
    log = tmp_path / "journal"
    (folder / "link").symlink_to(tmp_path)
    edit_captions(folder, [add(["sara"])], log)
    entry = next(log.glob("*.json"))
    data = json.loads(entry.read_text())
    data["files"].append({"path": path, "before": "x", "after_sha256": ""})
    entry.write_text(json.dumps(data))
    before = _contents(folder)
    with pytest.raises(LoraTrainError, match="not ours to write"):
        undo(folder, log)
    assert _contents(folder) == before and not (tmp_path / "outside.txt").exists()


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", "null", '{"version": 2}', '{"version": 1, "files": [1]}', "\xff", "[" * 100_000]
)
def test_a_damaged_journal_is_told(folder: Path, tmp_path: Path, text: str) -> None:
    log = tmp_path / "journal"
    log.mkdir()
    (log / "00000001-x.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(LoraTrainError, match="journal of edits is damaged"):
        undo(folder, log)


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(LoraTrainError, match="no such folder"):
        edit_captions(tmp_path / "nowhere", [add(["x"])], tmp_path / "journal")


TAGS = st.sampled_from(["woman", "Hat", "red hair", "sara", "été", "x y"])
TAG_LISTS = st.lists(TAGS, min_size=1, max_size=3)
EDITS = st.one_of(
    st.builds(add, TAG_LISTS, st.sampled_from(["front", "back"])),
    st.builds(remove, TAG_LISTS),
    st.builds(blacklist, TAG_LISTS | st.just(["*a*"])),
    st.builds(replace, st.sampled_from(["a", "^w", "(h)(a)", "$"]), st.sampled_from(["", "z", "a, b"])),
    st.builds(reorder, st.sampled_from(["first", "alphabetical", "frequency"]), st.just([]) | TAG_LISTS),
    st.just(deduplicate()),
)
# an edit, an undo, or a person who writes into a file (None as text: deletes it)
STEPS = st.one_of(
    EDITS,
    EDITS,
    st.just("undo"),
    st.tuples(
        st.sampled_from([name for name in FIRST if name != "notes.txt"]), st.none() | st.text("wx, \n", max_size=6)
    ),
)


@pytest.fixture(autouse=True)
def _no_fsync(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Flushing to the disk is most of the time here, and nothing that a test could see."""
    monkeypatch.setattr("os.fsync", lambda handle: None)
    yield


@settings(max_examples=40)
@given(st.lists(STEPS, max_size=8))
def test_whatever_happens_undo_brings_back_the_first_bytes_and_loses_nothing(steps: list[object]) -> None:
    root = Path(tempfile.mkdtemp())
    try:
        folder, log = _folder(root), root / "journal"
        by_person: dict[str, list[bytes]] = {name: [data] for name, data in FIRST.items()}
        for step in steps:
            if isinstance(step, Edit):
                edit_captions(folder, [step], log)
            elif isinstance(step, tuple):
                name, text = step
                if text is None:
                    (folder / name).unlink(missing_ok=True)
                    by_person[name].clear()  # what a person deletes need not be kept
                else:
                    (folder / name).write_text(text, newline="")
                    by_person[name] = [(folder / name).read_bytes()]  # who overwrites has seen what was there
            elif history(folder, log):
                undo(folder, log)
        touched = {step[0] for step in steps if isinstance(step, tuple)}
        while history(folder, log):
            undo(folder, log)
        left = _contents(folder)
        for name, first in FIRST.items():
            if name not in touched:
                assert left[name] == first
        for name, texts in by_person.items():
            kept = [data for other, data in left.items() if other == name or other.startswith(f"{name}.bak")]
            assert all(text in kept for text in texts), name
        assert not [name for name in left if name.endswith(".part")]
    finally:
        shutil.rmtree(root)


def test_only_captions_of_what_is_trained_on_are_edited(tmp_path: Path) -> None:
    """Not those of regularisation, of a NAS box's thumbnails, or behind a link to another folder."""
    root, elsewhere = tmp_path / "project", tmp_path / "elsewhere"
    places = (root / "img" / "10_sara", root / "reg" / "1_woman", root / "img" / "10_sara" / "@eaDir", elsewhere)
    for place in places:
        place.mkdir(parents=True)
        (place / "a.png").write_bytes(b"")
        (place / "a.txt").write_text("sara, hat\n")
    (root / "img" / "10_more").symlink_to(elsewhere)
    report = edit_captions(root, [add(["red"])], tmp_path / "journal")
    assert report.changed == [places[0] / "a.txt"]
    assert [(place / "a.txt").read_text() for place in places[1:]] == ["sara, hat\n"] * 3

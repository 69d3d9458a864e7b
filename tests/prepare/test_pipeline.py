from __future__ import annotations

import errno
import json
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lora_train.config import PrepareOptions
from lora_train.data.scan import scan
from lora_train.errors import LoraTrainError, Stopped
from lora_train.pictures import opening as pictures
from lora_train.prepare import Prepared, Services, overrule, pool, prepare
from lora_train.prepare.operations import blur, dynamic_range
from lora_train.prepare.worker import Worker
from tests.prepare.samples import noise, real, write_broken, write_odd

SMALL = 128
opened = Image.open


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six real pictures and captions for some, in a kohya folder with a concept below."""
    folder = tmp_path / "10_sara"
    (folder / "3_cat").mkdir(parents=True)
    for name in ("astronaut", "coffee", "rocket"):
        real(name).save(folder / f"{name}.png")
    for name in ("china", "flower"):
        real(name).save(folder / f"{name}.jpg", quality=95)
    real("chelsea").save(folder / "3_cat" / "chelsea.png")
    (folder / "coffee.txt").write_text("a cup of coffee")
    (folder / "3_cat" / "chelsea.caption").write_text("a cat")
    return folder


def options(*operations: str, **more: Any) -> PrepareOptions:
    return PrepareOptions(**{"operations": operations, "target": SMALL, "workers": 2, **more})


def lines(prepared: Prepared) -> dict[tuple[str, str], dict[str, Any]]:
    """The report's lines by file and operation."""
    assert prepared.report
    content = json.loads(prepared.report.read_text(encoding="utf-8"))
    return {(line["file"], line["operation"]): line for line in content["pictures"]}


def listing(folder: Path) -> dict[str, tuple[int, int]]:
    return {
        path.relative_to(folder).as_posix(): (path.stat().st_mtime_ns, path.stat().st_ino)
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_nothing_asked_means_the_pictures_as_they_are(folder: Path, tmp_path: Path) -> None:
    assert prepare(folder, PrepareOptions(), tmp_path / "work").folder == folder
    assert not (tmp_path / "work").exists()


def test_structure_captions_and_sizes(folder: Path, tmp_path: Path) -> None:
    before = listing(folder)
    prepared = prepare(folder, options("original", "resize"), tmp_path / "work")
    assert listing(folder) == before
    manifest = scan(prepared.folder, repeats=1)
    found = {p.path.stem: (p.concept, p.repeats, p.caption, max(p.width, p.height)) for p in manifest.pictures}
    assert found["coffee"] == ("sara", 10, "a cup of coffee", SMALL)
    assert found["chelsea"] == ("cat", 3, "a cat", SMALL)
    assert len(found) == prepared.summary["kept"] == 6


def test_without_edits_the_file_itself_comes_out(folder: Path, tmp_path: Path) -> None:
    prepared = prepare(folder, options("original", "range"), tmp_path / "work")
    assert (prepared.folder / "china.jpg").read_bytes() == (folder / "china.jpg").read_bytes()


def test_a_picture_whose_name_does_not_say_so_comes_out_under_one_that_does(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for seed, name in enumerate(("none", "a.jpg_large", "b.jfif")):
        noise(seed).save(tmp_path / "in" / name, "JPEG")
    prepared = prepare(tmp_path / "in", options("original", min_size=0), tmp_path / "work")
    assert sorted(path.name for path in prepared.folder.iterdir()) == ["a.png", "b.jfif", "none.png"]


def test_scores_are_those_of_the_finished_picture(folder: Path, tmp_path: Path) -> None:
    chosen = options("original", "blur", "range", "resize", target=256, max_blur=9.0)
    for (file, _), line in lines(prepare(folder, chosen, tmp_path / "work")).items():
        with Image.open(tmp_path / "work" / line["output"]) as made:
            assert line["scores"]["blur"] == pytest.approx(blur.score(made), abs=1e-6), file
            assert line["scores"]["range"] == pytest.approx(dynamic_range.score(made), abs=1e-6), file


def test_a_reduced_decode_changes_scores_little(tmp_path: Path) -> None:
    """A JPEG of 8 times the target comes at a quarter; the whole decode is the reference."""
    (tmp_path / "in").mkdir()
    real("china").resize((2048, 1366), Image.Resampling.LANCZOS).save(tmp_path / "in" / "a.jpg", quality=95)
    chosen = options("original", "blur", "range", "resize", target=256, max_blur=9.0)
    line = lines(prepare(tmp_path / "in", chosen, tmp_path / "work"))["a.jpg", "original"]
    with Image.open(tmp_path / "in" / "a.jpg") as whole:
        reduced = whole.resize((256, 171), Image.Resampling.LANCZOS)
    assert line["scores"]["blur"] == pytest.approx(blur.score(reduced), abs=0.05)
    assert line["scores"]["range"] == pytest.approx(dynamic_range.score(reduced), abs=0.01)
    assert line["size"] == [2048, 1366]


def test_rejections_have_reasons_and_are_counted(folder: Path, tmp_path: Path) -> None:
    real("coffee").resize((400, 267)).save(folder / "coffee-again.png")
    Image.new("RGB", (300, 300), "black").save(folder / "dark.png")
    noise(0, (90, 60)).save(folder / "tiny.png")
    Image.effect_noise((300, 300), 120).save(folder / "grain.png")
    chosen = options("original", "blur", "range", "similar", "resize", target=256, max_blur=2.5)
    prepared = prepare(folder, chosen, tmp_path / "work")
    rejected = {
        file: (e["rule"], e["reason"]) for (file, _), e in lines(prepared).items() if e["outcome"] == "rejected"
    }
    assert rejected["tiny.png"] == ("too small", "the picture is only 90 px wide; needs 256")
    assert rejected["dark.png"][0] == "range" and "too dark" in rejected["dark.png"][1]
    assert rejected["grain.png"][0] == "blur" and "above the limit of 2.5" in rejected["grain.png"][1]
    # the one with a caption, and larger, is the better
    assert rejected["coffee-again.png"] == ("similar", rejected["coffee-again.png"][1])
    assert "coffee.png (original), which is kept" in rejected["coffee-again.png"][1]
    assert prepared.summary["reasons"] == {"too small": 1, "range": 1, "blur": 1, "similar": 1}
    assert prepared.summary["files"] == 10 and prepared.summary["kept"] == 6
    for line in lines(prepared).values():
        assert (tmp_path / "work" / line["thumbnail"]).is_file()


def test_odd_and_broken_files(tmp_path: Path) -> None:
    odd, broken = write_odd(tmp_path / "in" / "odd"), write_broken(tmp_path / "in" / "broken")
    prepared = prepare(tmp_path / "in", options("original", "resize", "square"), tmp_path / "work")
    assert prepared.summary["kept"] == odd and prepared.summary["rejected"] == broken
    assert prepared.summary["reasons"] == {
        "the file is damaged": 1,
        "the file is empty": 1,
        "the picture is far too large to be opened safely": 1,
        "this is not a picture, whatever its name ends in": 1,
    }
    assert prepared.notes == ["1 file with several pictures (moving.gif): the first one is used."]
    assert all(max(p.width, p.height) == SMALL == min(p.width, p.height) for p in scan(prepared.folder).pictures)
    with Image.open(prepared.folder / "odd" / "turned.png") as turned:
        assert turned.getpixel((2, 64)) == (192, 192, 192)  # 120 x 160: borders left and right
    with Image.open(prepared.folder / "odd" / "alpha.png") as alpha:
        assert alpha.getpixel((20, 64)) == (192, 192, 192)


def test_the_second_run_does_nothing(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_broken(folder / "broken")
    chosen, work = options("original", "blur", "similar", "resize"), tmp_path / "work"
    first = prepare(folder, chosen, work)
    before = listing(work)
    monkeypatch.setattr(Worker, "do", None)
    second = prepare(folder, chosen, work)
    changed = {path for path, state in listing(work).items() if before.get(path) != state}
    assert changed == {"report.json", "metadata.json", "metadata.rejected.json"}
    assert second.summary == first.summary


def noted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the pictures that workers get, in order; filled as they come."""
    done: list[str] = []
    do = Worker.do

    def noting(self: Worker, task: dict[str, Any]) -> Any:
        done.append(Path(task["path"]).name)
        return do(self, task)

    monkeypatch.setattr(Worker, "do", noting)
    return done


def test_only_what_changed_is_done_again(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen, work = options("original", "resize"), tmp_path / "work"
    prepare(folder, chosen, work)
    done = noted(monkeypatch)
    real("rocket").rotate(90).save(folder / "china.jpg")
    (folder / "flower.jpg").unlink()
    (folder / "coffee.txt").write_text("another cup")
    prepared = prepare(folder, chosen, work)
    assert done == ["china.jpg"]
    assert not (prepared.folder / "flower.png").exists()
    assert (prepared.folder / "coffee.txt").read_text() == "another cup"
    done.clear()
    prepare(folder, options("original", "resize", max_blur=0.1), work)  # blur is off: its limit changes nothing
    assert done == []
    prepare(folder, options("original", "resize", target=100), work)
    assert len(done) == 5
    assert {max(p.width, p.height) for p in scan(prepared.folder).pictures} == {100}


def test_a_caption_edited_in_the_output_stays(folder: Path, tmp_path: Path) -> None:
    chosen, work = options("original", "resize"), tmp_path / "work"
    prepared = prepare(folder, chosen, work)
    (prepared.folder / "coffee.txt").write_text("mine")
    prepare(folder, chosen, work)
    assert (prepared.folder / "coffee.txt").read_text() == "mine"


@pytest.mark.parametrize("encoding", ["utf-16", "cp1252"])
def test_a_caption_that_is_not_utf8_is_in_the_copy(folder: Path, tmp_path: Path, encoding: str) -> None:
    (folder / "coffee.txt").write_bytes("a cup of café\r\n".encode(encoding))
    prepared = prepare(folder, options("original", "resize"), tmp_path / "work")
    assert (prepared.folder / "coffee.txt").read_bytes() == "a cup of café\n".encode()
    assert lines(prepared)["coffee.png", "original"]["caption"] == "a cup of café"


def test_a_caption_that_cannot_be_read_is_told(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = Path.read_bytes

    def refused(path: Path) -> bytes:
        if path == folder / "coffee.txt":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", refused)
    with pytest.raises(LoraTrainError, match="coffee.txt: the caption cannot be read.*Allow"):
        prepare(folder, options("original"), tmp_path / "work")
    with pytest.raises(LoraTrainError, match="coffee.txt: the caption cannot be read.*Allow"):
        scan(folder)


def test_overruling(folder: Path, tmp_path: Path) -> None:
    chosen, work = options("original", "blur", "resize", target=256, max_blur=0.5), tmp_path / "work"
    found = lines(prepare(folder, chosen, work))
    rejected, kept = found["china.jpg", "original"], found["flower.jpg", "original"]
    assert (rejected["outcome"], kept["outcome"]) == ("rejected", "kept")
    overrule(work, rejected["key"], True)
    overrule(work, kept["key"], False)
    for _ in range(2):  # remembered
        prepared = prepare(folder, chosen, work)
        found = lines(prepared)
        assert (
            found["china.jpg", "original"]["outcome"] == "kept" and found["china.jpg", "original"]["overruled"] is True
        )
        assert found["flower.jpg", "original"]["reason"] == "left out by you"
        assert (prepared.folder / "china.png").is_file() and not (prepared.folder / "flower.png").exists()
    for key in (rejected["key"], kept["key"]):
        overrule(work, key, None)
    assert lines(prepare(folder, chosen, work))["china.jpg", "original"]["outcome"] == "rejected"
    assert not (prepared.folder / "china.png").exists()


def test_what_cannot_be_overruled(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(LoraTrainError, match="no report"):
        overrule(tmp_path / "work", "x", True)
    write_broken(folder / "broken")
    found = lines(prepare(folder, options("original"), tmp_path / "work"))
    with pytest.raises(LoraTrainError, match="the file is empty"):
        overrule(tmp_path / "work", found["broken/empty.jpg", ""]["key"], True)
    with pytest.raises(LoraTrainError, match="no picture 'x'"):
        overrule(tmp_path / "work", "x", True)


def test_an_interrupted_run_goes_on(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = noted(monkeypatch)
    chosen, work = options("original", "resize", workers=1), tmp_path / "work"
    with pytest.raises(Stopped):
        prepare(folder, chosen, work, stopped=lambda: len(done) >= 3)
    some = set(done)
    assert 3 <= len(some) < 6
    monkeypatch.undo()
    seen: list[tuple[int, int]] = []
    prepared = prepare(folder, chosen, work, progress=lambda n, total: seen.append((n, total)))
    assert prepared.summary["kept"] == 6
    assert seen[-1] == (6, 6) and seen[0][0] >= 1


def test_processes_give_what_threads_give(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_broken(folder / "broken")
    chosen = options("original", "blur", "range", "similar", "resize", max_blur=1.2)
    results = []
    for few in (0, 1000):
        monkeypatch.setattr(pool, "FEW", few)
        work = tmp_path / f"work-{few}"
        prepared = prepare(folder, chosen, work)
        results.append((lines(prepared), {p.name: p.read_bytes() for p in prepared.folder.rglob("*.png")}))
    assert results[0] == results[1]


def test_a_worker_imports_only_what_it_needs() -> None:
    code = "import sys, lora_train.prepare.worker; print([n for n in ('torch', 'cv2', 'scipy') if n in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_a_process_that_dies_costs_one_picture(folder: Path, tmp_path: Path) -> None:
    from lora_train.prepare.base import Plan

    plan = Plan(options("original"), str(tmp_path / "store"))
    process = pool.Process(plan)
    try:
        process._process.kill()
        process._process.wait()
        assert "crashed" in process.do({"path": str(folder / "coffee.png")})["broken"]
        assert not process.do({"path": str(folder / "coffee.png")})["broken"]
    finally:
        process.close()


def test_no_python_to_start_means_threads(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "FEW", 0)
    monkeypatch.setattr(pool.sys, "executable", str(tmp_path / "nowhere"))
    assert prepare(folder, options("original", "resize"), tmp_path / "work").summary["kept"] == 6


def test_services(folder: Path, tmp_path: Path) -> None:
    calls = []

    def upscale(pictures: Iterable[Image.Image]) -> Iterator[Image.Image]:
        for picture in pictures:
            calls.append("upscale")
            yield picture.resize((picture.width * 2, picture.height * 2))

    def restore(pictures: Iterable[Image.Image]) -> Iterator[Image.Image]:
        for picture in pictures:
            calls.append("restore")
            yield Image.fromarray(255 - np.asarray(picture))

    def caption(pictures: Iterable[Image.Image]) -> Iterator[str]:
        for picture in pictures:
            calls.append("caption")
            yield f"{picture.width} wide"

    noise(0, (90, 60)).save(folder / "tiny.png")
    noise(1, (50, 40)).save(folder / "tinier.png")
    chosen = options("original", "upscale", "restore", "resize", "interrogate")
    services, work = Services(upscale, restore, caption), tmp_path / "work"
    prepared = prepare(folder, chosen, work, services)
    found = lines(prepared)
    assert found["tiny.png", "original"]["outcome"] == "kept"
    assert found["tinier.png", "original"]["reason"] == "the picture is only 50 px wide, 100 when upscaled; needs 128"
    assert {name: calls.count(name) for name in set(calls)} == {"upscale": 1, "restore": 7, "caption": 5}
    assert (prepared.folder / "tiny.txt").read_text() == "128 wide\n"
    assert (prepared.folder / "coffee.txt").read_text() == "a cup of coffee"
    assert not list(work.rglob("*.crop.png")) and not list(work.rglob("*.upscale.png"))
    calls.clear()
    prepare(folder, chosen, work, services)
    assert calls == []


def test_pictures_that_a_service_gives_back_unchanged_are_said_once(folder: Path, tmp_path: Path) -> None:
    heard: list[str] = []

    def restore(pictures: Iterable[Image.Image]) -> Iterator[Image.Image]:
        for number, picture in enumerate(pictures):
            yield picture if number else Image.fromarray(255 - np.asarray(picture))

    chosen, work = options("original", "restore", "resize"), tmp_path / "work"
    prepared = prepare(folder, chosen, work, Services(restore=restore), note=heard.append)
    notes = [note for note in prepared.notes if "nothing was restored" in note]
    assert len(notes) == 1 and notes[0] in heard
    assert notes[0].startswith("5 pictures of 6 came back as sent: nothing was restored.") and "CodeFormer" in notes[0]


def test_what_was_transparent_is_a_mask_through_all_edits(tmp_path: Path) -> None:
    """Upscaled by the host, resized and padded: the mask's left half is empty like the picture's."""
    (tmp_path / "in").mkdir()
    picture = noise(3, (100, 60)).convert("RGBA")
    picture.paste((0, 0, 0, 0), (0, 0, 50, 60))
    picture.save(tmp_path / "in" / "a.png")
    noise(4).save(tmp_path / "in" / "opaque.png")
    twice = Services(upscale=lambda pictures: (p.resize((p.width * 2, p.height * 2)) for p in pictures))
    prepared = prepare(tmp_path / "in", options("original", "upscale", "resize", "square"), tmp_path / "work", twice)
    assert prepared.masks and [path.name for path in prepared.masks.iterdir()] == ["a.png"]
    with Image.open(prepared.masks / "a.png") as mask, Image.open(prepared.folder / "a.png") as made:
        assert mask.size == made.size == (SMALL, SMALL) and mask.mode == "L"
        values, pixels = np.asarray(mask), np.asarray(made)
    assert not values[:, : SMALL // 2 - 3].any() and not values[:20].any()  # transparent, and the border
    assert (values[40:90, SMALL // 2 + 3 :] == 255).all()
    assert (np.abs(pixels[:, : SMALL // 2 - 3].astype(int) - 192) <= 2).all()


def test_a_mask_beside_a_picture_comes_along_cut_and_sized_like_it(tmp_path: Path) -> None:
    """It is of another size and goes through upscaling, resizing and padding; a changed one is taken anew."""
    folder, work = tmp_path / "in", tmp_path / "work"
    folder.mkdir()
    noise(3, (100, 60)).save(folder / "a.png")
    noise(4).save(folder / "plain.png")
    half = Image.new("L", (50, 30), 255)
    half.paste(0, (0, 0, 25, 30))
    half.save(folder / "a-masklabel.png")
    heard: list[str] = []
    twice = Services(upscale=lambda pictures: (p.resize((p.width * 2, p.height * 2)) for p in pictures))
    chosen = options("original", "upscale", "resize", "square")
    prepared = prepare(folder, chosen, work, twice, note=heard.append)
    assert "The masks beside 1 picture are used: cropped and scaled with them, for a masked loss." in heard
    assert prepared.masks and [path.name for path in prepared.masks.iterdir()] == ["a.png"]
    with Image.open(prepared.masks / "a.png") as mask, Image.open(prepared.folder / "a.png") as made:
        assert mask.size == made.size == (SMALL, SMALL) and mask.mode == "L"
        values = np.asarray(mask)
    assert not values[:, : SMALL // 2 - 3].any() and not values[:20].any() and not values[-20:].any()
    assert (values[40:90, SMALL // 2 + 3 :] == 255).all()
    Image.new("L", (100, 60), 255).save(folder / "a-masklabel.png")
    prepared = prepare(folder, chosen, work, twice)
    with Image.open(work / "masks" / "in" / "a.png") as mask:
        assert (np.asarray(mask)[40:90, :60] == 255).all()
    (folder / "a-masklabel.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    heard.clear()
    assert prepare(folder, chosen, work, twice, note=heard.append).masks is None
    assert any("The mask a-masklabel.png cannot be read" in text for text in heard)


def test_a_crash_while_captions_are_written_leaves_no_old_one(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen, work = options("original", "resize"), tmp_path / "work"
    prepared = prepare(folder, chosen, work)
    (folder / "coffee.txt").write_text("another cup")

    def crash(path: Path, data: bytes) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("lora_train.prepare.publish.write_bytes", crash)
        prepare(folder, chosen, work)
    prepare(folder, chosen, work)
    assert (prepared.folder / "coffee.txt").read_text() == "another cup"


def test_what_the_host_lacks_is_said_once(folder: Path, tmp_path: Path) -> None:
    noise(0, (90, 60)).save(folder / "tiny.png")
    prepared = prepare(folder, options("original", "upscale", "restore", "interrogate", "resize"), tmp_path / "work")
    assert [note.split(" ")[0:2] for note in prepared.notes] == [
        ["Nothing", "is"],
        ["No", "faces"],
        ["No", "captions"],
        ["No", "tags"],
    ]
    assert all("Use a WebUI" in note for note in prepared.notes) and prepared.summary["kept"] == 6
    prepared = prepare(folder, options("original", "resize"), tmp_path / "work")
    assert lines(prepared)["tiny.png", "original"]["reason"].endswith("needs 128; switch on upscale")


def test_names_do_not_collide(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for seed, name in enumerate(("a.png", "a.jpg", "A.bmp", "a-2.png")):
        noise(seed).save(folder / name)
    prepared = prepare(folder, options("original", "resize"), tmp_path / "work")
    names = [path.stem.casefold() for path in prepared.folder.iterdir()]
    assert len(set(names)) == 4


@pytest.mark.parametrize("stem", ["x" * 250, "\N{GRINNING FACE}" * 62], ids=["letters", "emoji"])
def test_names_as_long_as_the_file_system_allows(tmp_path: Path, stem: str) -> None:
    (tmp_path / "in").mkdir()
    for letter, name in zip("ab", ("astronaut", "coffee")):
        real(name).save(tmp_path / "in" / f"{stem}{letter}.png")
    work = tmp_path / "work"
    prepared = prepare(tmp_path / "in", options("original", "face", "resize", min_size=1), work, tag="sara")
    assert prepared.summary["files"] == 2 and prepared.summary["kept"] >= 2
    assert len(scan(prepared.folder).pictures) == prepared.summary["kept"]


def test_a_reader_that_is_installed_later_is_used(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "coffee.png").rename(folder / "coffee.jxl")
    (folder / "coffee.jxl").write_bytes(b"\xff\x0a" + bytes(99))

    def prepared() -> dict[str, Any]:
        return lines(prepare(folder, options("original", "resize"), tmp_path / "work"))["coffee.jxl", "original"]

    with pytest.raises(KeyError):
        prepared()
    monkeypatch.setattr(
        pictures.Image, "open", lambda path: opened(folder / "rocket.png" if path.suffix == ".jxl" else path)
    )
    assert prepared()["outcome"] == "kept"


def test_a_work_folder_inside_the_input_is_not_an_input(folder: Path) -> None:
    for _ in range(2):
        assert prepare(folder, options("original", "resize"), folder / "work").summary["files"] == 6


def test_no_pictures(tmp_path: Path) -> None:
    with pytest.raises(LoraTrainError, match="no pictures"):
        prepare(tmp_path, options("original"), tmp_path / "work")
    with pytest.raises(LoraTrainError, match="no such folder"):
        prepare(tmp_path / "nowhere", options("original"), tmp_path / "work")

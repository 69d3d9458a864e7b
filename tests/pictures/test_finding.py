"""What is taken and what is left out of folders as people have them."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from PIL import Image

from lora_train.cli import main
from lora_train.data.scan import scan
from lora_train.errors import LoraTrainError
from lora_train.pictures.finding import find

links = pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")


def put(folder: Path, *names: str) -> Path:
    """Small pictures at these places; each has its own content."""
    for number, name in enumerate(names):
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        picture = Image.new("RGB", (64, 64), (number, 0, 0))
        picture.paste((255, 255, 255), (0, 0, 32, 32))
        picture.save(file, format="PNG")
    return folder


def names(folder: Path, **more: object) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in find(folder, **more).pictures]  # type: ignore[arg-type]


def left_out(folder: Path) -> str:
    return find(folder).left_out.line()


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """kohya's folders, with previews of an earlier training and a LoRA's card."""
    put(tmp_path, "img/10_sara woman/a.png", "img/10_sara woman/b.png", "reg/1_woman/r.png", "reg/1_woman/s.png")
    put(tmp_path, "model/sample/sara_e000001_00.png", "model/sara.png", "log/graph.png", "cover.png")
    (tmp_path / "model" / "sara.safetensors").touch()
    return tmp_path


def test_of_a_kohya_project_img_is_trained_on_and_the_rest_counted(project: Path) -> None:
    manifest = scan(project)
    assert {(p.path.name, p.repeats, p.concept) for p in manifest.pictures} == {
        ("a.png", 10, "sara woman"),
        ("b.png", 10, "sara woman"),
    }
    assert manifest.summary() == (
        "2 pictures in 1 concept; left out: 4 other pictures of a kohya project (cover.png, log/, model/), "
        "2 regularisation pictures (reg/)"
    )


@pytest.mark.parametrize("inside", ["img", "img/10_sara woman"])
def test_from_inside_the_project_the_same_pictures_are_found(project: Path, inside: str) -> None:
    assert [path.name for path in find(project / inside).pictures] == ["a.png", "b.png"]
    assert left_out(project / inside) == ""


def test_a_folder_that_is_pointed_at_is_never_judged_by_its_name(project: Path) -> None:
    assert names(project / "reg") == ["1_woman/r.png", "1_woman/s.png"]
    assert names(project / "reg" / "1_woman") == ["r.png", "s.png"]
    assert names(put(project / "0_x", "a.png")) == ["a.png"]


def test_pointing_at_the_output_says_what_lies_there(project: Path) -> None:
    with pytest.raises(LoraTrainError) as error:
        scan(project / "model")
    assert "1 preview beside a LoRA file (sara.png), 1 preview of earlier trainings (sample/)" in str(error.value)


def test_several_projects_in_one_folder(tmp_path: Path) -> None:
    for name in ("one", "two"):
        put(tmp_path / name, "img/3_x/a.png", "Reg/1_y/b.png", "log/c.png")
    assert names(tmp_path) == ["one/img/3_x/a.png", "two/img/3_x/a.png"]


def test_regularisation_folders_are_known_by_their_repeats_without_a_project(tmp_path: Path) -> None:
    put(tmp_path, "10_sara/a.png", "reg/1_woman/r.png")
    assert names(tmp_path) == ["10_sara/a.png"]
    assert left_out(tmp_path) == "1 regularisation picture (reg/)"


def test_model_alone_may_be_a_fashion_models_pictures(tmp_path: Path) -> None:
    put(tmp_path, "model/a.png", "street/b.png", "img/c.png", "log/d.png", "sample/e.png")
    assert len(names(tmp_path)) == 5 and left_out(tmp_path) == ""


def test_a_flat_reg_folder_is_trained_on_and_it_is_said(tmp_path: Path) -> None:
    put(tmp_path, "a.png", "reg/b.png")
    manifest = scan(tmp_path)
    assert len(manifest.pictures) == 2
    assert any("reg/ are trained on" in note and "regularisation" in note for note in manifest.notes)


def test_zero_repeats_leave_a_folder_out(tmp_path: Path) -> None:
    put(tmp_path, "0_x/a.png", "00_y/deep/b.png", "3_z/c.png", "0x/d.png", "-3_w/e.png")
    assert names(tmp_path) == ["-3_w/e.png", "0x/d.png", "3_z/c.png"]
    assert left_out(tmp_path) == "2 pictures with 0 repeats (00_y/, 0_x/)"


def test_many_repeats_are_kohyas_and_worth_a_word_and_dates_are_names(tmp_path: Path) -> None:
    put(tmp_path, "999999_x/a.png", "20240511_holiday/b.png", "１０_full/c.png")
    manifest = scan(tmp_path, repeats=4)
    assert [p.repeats for p in manifest.pictures] == [4, 999999, 10]
    (note,) = manifest.notes
    assert "999999_x" in note


def test_masks_beside_pictures_are_no_pictures(tmp_path: Path) -> None:
    endings = ("-masklabel", "-condlabel", "_mask", ".mask", "-MASK", "_depth")
    put(tmp_path, "p.png", "q.png", *(f"p{ending}.png" for ending in endings), "masks/q.png", "q.txt_mask.png")
    put(tmp_path, "venetian_mask.png", "masks/carnival.png")
    found = find(tmp_path)
    assert [p.name for p in found.pictures] == ["carnival.png", "p.png", "q.png", "q.txt_mask.png", "venetian_mask.png"]
    assert found.masks == {
        tmp_path / "p.png": tmp_path / "p-masklabel.png",
        tmp_path / "q.png": tmp_path / "masks/q.png",
    }
    assert "2 conditioning pictures (p-condlabel.png, p_depth.png)" in left_out(tmp_path)
    assert "5 masks" in left_out(tmp_path)


def test_a_folder_of_masks_beside_a_folder_of_pictures(tmp_path: Path) -> None:
    put(tmp_path, "images/a.png", "images/b.png", "masks/a.png", "Mask/b_mask.png", "masks/c.png")
    found = find(tmp_path)
    assert [path.relative_to(tmp_path).as_posix() for path in found.pictures] == [
        "images/a.png",
        "images/b.png",
        "masks/c.png",
    ]
    assert {of.name: mask.name for of, mask in found.masks.items()} == {"a.png": "a.png", "b.png": "b_mask.png"}


def test_a_mask_of_one_of_several_pictures_is_nobodys(tmp_path: Path) -> None:
    found = find(put(tmp_path, "1_a/0.png", "2_b/0.png", "masks/0.png"))
    assert len(found.pictures) == 2 and found.masks == {} and found.left_out.line() == "1 mask (masks/0.png)"


def test_folders_of_masks_with_the_folders_of_the_pictures_in_them(tmp_path: Path) -> None:
    found = find(put(tmp_path, "5_a/0.png", "2_b/0.png", "masks/5_a/0.png", "masks/2_b/0.png"))
    assert {str(of.parent.name): str(mask.relative_to(tmp_path)) for of, mask in found.masks.items()} == {
        "5_a": "masks/5_a/0.png",
        "2_b": "masks/2_b/0.png",
    }
    assert len(found.pictures) == 2 and found.left_out.line().startswith("2 masks")


def test_a_folder_named_after_one_of_pictures_holds_its_masks(tmp_path: Path) -> None:
    found = find(
        put(tmp_path, "img/5_a/0.png", "img_masks/5_a/0.png", "6_b/0.png", "6_b_mask/0.png", "8_venetian_mask/0.png")
    )
    assert [path.relative_to(tmp_path).as_posix() for path in found.pictures] == [
        "6_b/0.png",
        "8_venetian_mask/0.png",
        "img/5_a/0.png",
    ]
    assert {mask.parent.name for mask in found.masks.values()} == {"5_a", "6_b_mask"}


def test_conditioning_folders_and_other_names_of_masks(tmp_path: Path) -> None:
    names = ("a.png", "mask_a.png", "a_mask_1.png", "a_canny.png", "conditioning/a.png", "b_canny.png")
    found = find(put(tmp_path, *names))
    assert [path.name for path in found.pictures] == ["a.png", "b_canny.png"]
    assert "2 masks" in found.left_out.line()
    assert "2 conditioning pictures" in found.left_out.line()


def test_regularisation_pictures_by_other_names(tmp_path: Path) -> None:
    for name in ("reg_data", "class_images", "Reg-Images", "regularization images"):
        found = find(put(tmp_path / name, "train/10_sks girl/a.png", f"{name}/1_girl/b.png"))
        assert [path.name for path in found.pictures] == ["a.png"], name
        assert found.left_out.line() == f"1 regularisation picture ({name}/)"


def test_what_is_named_as_a_mask_of_nothing_is_trained_on_and_it_is_said(tmp_path: Path) -> None:
    found = find(put(tmp_path, "venetian_mask.png", "a.png"))
    assert len(found.pictures) == 2 and found.notes[0].endswith("trained on as pictures: venetian_mask.png.")


def test_what_nas_boxes_file_managers_and_browsers_leave(tmp_path: Path) -> None:
    put(tmp_path, "a.jpg", "b.jpg", "a (1).jpg")
    put(tmp_path, "@eaDir/a.jpg/SYNOPHOTO_THUMB_M.jpg", "@eaDir/a.jpg/SYNOPHOTO_THUMB_XL.jpg", "@EADIR2/c.jpg")
    put(tmp_path, "#recycle/x.jpg", "$RECYCLE.BIN/S-1/$R.jpg", "lost+found/x.jpg", "__MACOSX/real.jpg", ".trash/t.jpg")
    put(tmp_path, ".thumbnails/a.jpg", ".secret/h.jpg", ".h.jpg", "c.jpg.crdownload", "b.jpg~", "d.png.part")
    for name in ("._a.jpg", "__MACOSX/._a.jpg", ".DS_Store", "Thumbs.db", "desktop.ini"):
        (tmp_path / name).write_bytes(b"\0\5\x16\7" + bytes(60))
    (tmp_path / "film.mp4").touch()
    (tmp_path / "set.zip").touch()
    (tmp_path / "layers.psd").write_bytes(b"8BPS")
    (tmp_path / "raw.nef").write_bytes(b"MM\0*" + bytes(60))
    assert names(tmp_path) == ["@EADIR2/c.jpg", "a (1).jpg", "a.jpg", "b.jpg"]
    told = left_out(tmp_path)
    for part in (
        "3 thumbnails (.thumbnails/, @eaDir/)",
        "3 deleted pictures (#recycle/, $RECYCLE.BIN/, .trash/)",
        "2 pictures in system folders (__MACOSX/, lost+found/)",
        "2 hidden pictures (.h.jpg, .secret/)",
        "3 unfinished downloads or copies (b.jpg~, c.jpg.crdownload, d.png.part)",
        "1 video (film.mp4)",
        "1 archive that is not unpacked (set.zip)",
        "2 pictures of kinds that are not supported (layers.psd, raw.nef)",
    ):
        assert part in told, part


@links
def test_links_are_followed_once_and_broken_ones_named(tmp_path: Path) -> None:
    far = put(tmp_path / "far", "q.png", "inner/r.png")
    folder = put(tmp_path / "set", "10_a/p.png")
    (folder / "3_linked").symlink_to(far)
    (folder / "4_again").symlink_to(far)
    (folder / "5_inner").symlink_to(far / "inner")
    (folder / "linked.png").symlink_to(far / "q.png")
    (folder / "1_a").symlink_to(folder / "10_a")  # first by name, but the real folder says the repeats
    (folder / "loop").symlink_to(folder)
    (folder / "up").symlink_to(tmp_path)
    (folder / "self.png").symlink_to(folder / "self.png")
    (folder / "broken.png").symlink_to(tmp_path / "gone.png")
    (folder / "gone").symlink_to(tmp_path / "gone")
    assert names(folder) == ["10_a/p.png", "3_linked/inner/r.png", "3_linked/q.png", "linked.png"]
    told = left_out(folder)
    assert "3 broken links (broken.png, gone, self.png)" in told
    assert "5 links to folders that are already read (1_a, 4_again, 5_inner, ...)" in told


@links
def test_links_lead_only_where_reading_is_allowed(tmp_path: Path) -> None:
    far = put(tmp_path / "far", "q.png")
    folder = put(tmp_path / "set", "p.png")
    (folder / "linked").symlink_to(far)
    (folder / "q.png").symlink_to(far / "q.png")
    found = find(folder, may_read=lambda path: path.is_relative_to(folder))
    assert [path.name for path in found.pictures] == ["p.png"]
    assert found.left_out.line() == "2 links out of the folders that may be used (q.png, linked)"


def test_pictures_are_known_by_their_content_too(tmp_path: Path) -> None:
    picture = Image.new("RGB", (64, 64), "red")
    for name, kind in (
        *(("old.jpe", "JPEG"), ("web.jfif", "JPEG"), ("twitter.jpg_large", "JPEG"), ("none", "PNG")),
        *(("query.jpg?w=1", "WEBP"), ("odd.xyz", "GIF"), ("scan.dat", "TIFF"), ("paint.bitmap", "BMP")),
    ):
        picture.save(tmp_path / name, format=kind)
    (tmp_path / "README").write_text("no picture")
    (tmp_path / "a.txt").write_bytes((tmp_path / "none").read_bytes())
    manifest = scan(tmp_path)
    assert len(manifest.pictures) == 8 and {(p.width, p.height) for p in manifest.pictures} == {(64, 64)}
    expected = "8 pictures in 1 concept; left out: 1 picture under the name of another kind of file (a.txt)"
    assert manifest.summary() == expected


def test_names_cannot_break_the_line(tmp_path: Path) -> None:
    put(tmp_path, "a.png", "0_x\n\x1b[2J/b.png")
    assert left_out(tmp_path) == "1 picture with 0 repeats (0_x\\n\\x1b[2J/)"


def test_preparing_says_the_same_line(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LORA_TRAIN_DATA", str(tmp_path / "data"))
    told = scan(project).summary().split("; left out: ")[1]
    command = ["prepare", "--input", str(project), "--process", "original,resize", "--target", "64"]
    assert main(command) == 0
    said = capsys.readouterr()
    assert "2 pictures kept" in said.out and f"Left out: {told}." in said.err
    assert not os.path.exists(project / "img" / "data")


def test_a_dataset_config_leaves_out_the_same(tmp_path: Path) -> None:
    put(tmp_path / "set", "p.png", "p_mask.png", "deeper/q.png", ".h.png")
    config = tmp_path / "config.toml"
    config.write_text(f"[[datasets]]\n[[datasets.subsets]]\nimage_dir = '{tmp_path}/set'\n")
    from lora_train.config import DataOptions
    from lora_train.data.sources import read_pictures

    manifest = read_pictures(DataOptions(dataset_config=str(config)), 1)
    assert [p.path.name for p in manifest.pictures] == ["p.png"]
    assert manifest.beside == {tmp_path / "set/p.png": tmp_path / "set/p_mask.png"}
    assert manifest.left_out_line() == "1 hidden picture (.h.png), 1 mask (p_mask.png)"


def test_pictures_under_names_of_other_things_are_left_out_and_said(tmp_path: Path) -> None:
    put(tmp_path, "a.png", "b.bin", "c.html", "d.npz", "e.bak", "Unconfirmed 123.crdownload")
    (tmp_path / "notes.html").write_text("<html>BM GIF8</html>")
    (tmp_path / "weights.bin").write_bytes(b"\0" * 100)
    (tmp_path / "old.bak").write_text("text")
    assert names(tmp_path) == ["a.png"]
    assert left_out(tmp_path) == (
        "2 unfinished downloads or copies (Unconfirmed 123.crdownload, e.bak), "
        "3 pictures under the names of other kinds of file (b.bin, c.html, d.npz)"
    )


def test_a_folder_of_masks_whose_pictures_are_not_there_is_said(tmp_path: Path) -> None:
    put(tmp_path, "5_b/0.png", "5_a_mask/0.png", "masks-c/0.png", "5_b_mask/0.png", "mask/0.png")
    found = find(tmp_path)
    assert [path.parent.name for path in found.pictures] == ["5_a_mask", "5_b", "masks-c"]
    told = "is named as a folder of masks, but there is no folder"
    assert [note for note in found.notes if told in note] == [
        f"5_a_mask/ {told} 5_a/ beside it that they could belong to: its pictures are trained on; "
        "if they are masks, move it away.",
        f"masks-c/ {told} c/ beside it that they could belong to: its pictures are trained on; "
        "if they are masks, move it away.",
    ]


def test_maps_for_controlnet_beside_pictures_are_left_out(tmp_path: Path) -> None:
    kinds = ("normal", "seg", "scribble", "softedge", "alpha", "dwpose")
    put(tmp_path, "a.png", "other_normal.png", *(f"a_{kind}.png" for kind in kinds))
    assert names(tmp_path) == ["a.png", "other_normal.png"]
    assert left_out(tmp_path).startswith("6 conditioning pictures (a_alpha.png")


def test_folders_of_what_was_put_aside_are_trained_on_and_said(tmp_path: Path) -> None:
    put(tmp_path, "a.png", "Rejected/b.png", "not_used/c.png", "bolder/d.png")
    notes = find(tmp_path).notes
    assert [note.split("/")[0] for note in notes] == ["The pictures in Rejected", "The pictures in not_used"]
    assert len(names(tmp_path)) == 4 and all("put aside" in note for note in notes)


def test_folders_that_seem_to_say_repeats_are_named(tmp_path: Path) -> None:
    put(tmp_path, "10-sara woman/a.png", "5 tom/b.png", "3x_bob/c.png", "10_ann/d.png", "90s/e.png", "7/f.png")
    manifest = scan(tmp_path, "sks")
    notes = [note for note in manifest.notes if "does not set repeats" in note]
    assert [note.split(": ")[1] for note in notes] == [
        '10 repeats are written "10_sara woman".',
        '3 repeats are written "3_bob".',
        '5 repeats are written "5_tom".',
    ]


def test_captions_in_two_places_that_differ_are_said(tmp_path: Path) -> None:
    put(tmp_path, "a.png", "b.png", "c.png")
    (tmp_path / "a.txt").write_text("of the file")
    (tmp_path / "b.txt").write_text("the same")
    captions = {tmp_path / "a.png": "of the table", tmp_path / "b.png": "the same", tmp_path / "c.png": "alone"}
    manifest = scan(tmp_path, captions=captions)
    assert [one.caption for one in manifest.pictures] == ["of the file", "the same", "alone"]
    told = "1 picture with a caption file and another caption in metadata.jsonl (a.png): the file is used."
    assert told in manifest.notes

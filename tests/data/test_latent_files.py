"""sd-scripts' latents in a dataset."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lora_train.config import DataOptions
from lora_train.data.cache import LatentCache
from lora_train.data.formats.kohya_npz import read_npz
from lora_train.data.scan import scan
from lora_train.data.training_set import Dataset, build_dataset
from tests.conftest import draw_pictures
from tests.data.test_training_set import FakeEncoder

OPTIONS = DataOptions(resolution=128, min_bucket_reso=64, max_bucket_reso=256, flip_aug=True)


def build(folder: Path, cache: Path, options: DataOptions, encoder: FakeEncoder) -> Dataset:
    return build_dataset(scan(folder), options, encoder, LatentCache(cache), 8, lambda done, total: None)


def test_they_are_written_and_read_again(tmp_path: Path) -> None:
    folder = draw_pictures(tmp_path / "in", 3, sizes=((128, 128), (200, 100)))
    mine = build(folder, tmp_path / "a", replace(OPTIONS, write_npz=True), FakeEncoder())
    written = read_npz(folder / "picture-1_0200x0100_sd.npz")
    item = next(item for item in mine.items if item.picture.path.name == "picture-1.png")
    width, height = item.placement.bucket
    assert written.latents.shape == (3, height // 8, width // 8) and written.original_size == (200, 100)
    assert np.array_equal(written.latents, mine.latents[item.keys[0]][0].numpy())  # the deviation is 0 here
    assert np.array_equal(written.flipped, mine.latents[item.keys[1]][0].numpy())
    encoder = FakeEncoder()
    theirs = build(folder, tmp_path / "b", replace(OPTIONS, read_npz=True), encoder)
    assert encoder.encoded == 0 and theirs.from_npz == 3
    for key, (mean, std) in theirs.latents.items():
        assert torch.equal(mean, mine.latents[key][0]) and not std.any()
    assert not list((tmp_path / "b").glob("*"))


def test_what_does_not_fit_is_made_by_us(tmp_path: Path) -> None:
    folder = draw_pictures(tmp_path / "in", 3)
    build(folder, tmp_path / "a", replace(OPTIONS, write_npz=True, flip_aug=False), FakeEncoder())
    (folder / "picture-0_0128x0128_sd.npz").rename(folder / "picture-0.npz")
    Image.new("RGB", (64, 64)).save(folder / "picture-0.png")  # the same bucket, of another original
    (folder / "picture-1_0128x0128_sd.npz").write_bytes(b"damaged")
    encoder = FakeEncoder()
    dataset = build(folder, tmp_path / "b", replace(OPTIONS, read_npz=True, flip_aug=False), encoder)
    assert dataset.from_npz == 1 and encoder.encoded == 2
    encoder = FakeEncoder()  # for flips they hold too little
    assert build(folder, tmp_path / "c", replace(OPTIONS, read_npz=True), encoder).from_npz == 0
    assert encoder.encoded == 6


def read_again(folder: Path, cache: Path, encoder: FakeEncoder | None = None) -> Dataset:
    return build(folder, cache, replace(OPTIONS, read_npz=True, flip_aug=False), encoder or FakeEncoder())


def forget_the_content(file: Path) -> None:
    """As sd-scripts writes it."""
    with np.load(file) as data:
        arrays = {name: data[name] for name in data if not name.startswith("lora_train")}
    np.savez(file, **arrays)


def test_ours_name_the_content_and_of_others_the_time_counts(tmp_path: Path) -> None:
    folder = draw_pictures(tmp_path / "in", 2)
    build(folder, tmp_path / "a", replace(OPTIONS, write_npz=True, flip_aug=False), FakeEncoder())
    forget_the_content(folder / "picture-1_0128x0128_sd.npz")
    assert read_again(folder, tmp_path / "b").from_npz == 2
    for picture in folder.glob("*.png"):  # copied from elsewhere: newer, and the same
        os.utime(picture, (2e9, 2e9))
    dataset = read_again(folder, tmp_path / "c")
    assert dataset.from_npz == 1 and "1 older than the picture" in dataset.notes[0]


def test_ours_are_not_taken_for_another_picture_or_vae(tmp_path: Path) -> None:
    folder = draw_pictures(tmp_path / "in", 2)
    build(folder, tmp_path / "a", replace(OPTIONS, write_npz=True, flip_aug=False), FakeEncoder())
    Image.new("RGB", (128, 128), "red").save(folder / "picture-0.png")  # of the same size
    os.utime(folder / "picture-0.png", (1, 1))  # and older than the file
    dataset = read_again(folder, tmp_path / "b")
    assert dataset.from_npz == 1 and "1 of another picture" in dataset.notes[0]
    other = FakeEncoder()
    other.vae_hash = "another"
    dataset = read_again(folder, tmp_path / "c", other)
    assert dataset.from_npz == 0 and "1 of another VAE" in dataset.notes[0]


@pytest.mark.parametrize("old", [False, True])
def test_pictures_of_one_name_never_share_a_file(tmp_path: Path, old: bool) -> None:
    folder = draw_pictures(tmp_path / "in", 2)
    build(folder, tmp_path / "a", replace(OPTIONS, write_npz=True, flip_aug=False), FakeEncoder())
    file = folder / "picture-0_0128x0128_sd.npz"
    forget_the_content(file)
    if old:  # one for all sizes
        file = file.rename(folder / "picture-0.npz")
    Image.new("RGB", (128, 128), "red").save(folder / "picture-0.jpg")
    for path in folder.glob("*.*g"):
        os.utime(path, (1, 1))
    dataset = read_again(folder, tmp_path / "b")
    assert dataset.from_npz == 1 and "2 shared by several pictures of the same name" in dataset.notes[0]
    red, drawn = (dataset.latents[item.keys[0]][0] for item in dataset.items[:2])
    assert not torch.equal(red, drawn)
    before = file.read_bytes()
    dataset = build(folder, tmp_path / "c", replace(OPTIONS, write_npz=True, flip_aug=False), FakeEncoder())
    assert "for 2 pictures" in dataset.notes[0] and file.read_bytes() == before


def test_by_default_none_are_touched(tmp_path: Path) -> None:
    folder = draw_pictures(tmp_path / "in", 1)
    build(folder, tmp_path / "a", OPTIONS, FakeEncoder())
    assert not list(folder.glob("*.npz"))


def test_the_sample_follows_the_posterior_and_stays_the_same(tmp_path: Path) -> None:
    class Wide(FakeEncoder):
        def encode_pictures(self, pixels: torch.Tensor, tiled: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
            mean, _ = super().encode_pictures(pixels)
            return mean, torch.full_like(mean, 0.5)

    folder = draw_pictures(tmp_path / "in", 1)
    files = []
    for name in ("a", "b"):
        dataset = build(folder, tmp_path / name, replace(OPTIONS, write_npz=True, flip_aug=False), Wide())
        files.append(read_npz(folder / "picture-0_0128x0128_sd.npz").latents)
        (folder / "picture-0_0128x0128_sd.npz").unlink()
    assert np.array_equal(*files)
    spread = files[0] - dataset.latents[dataset.items[0].keys[0]][0].numpy()
    assert float(spread.std()) == pytest.approx(0.5, rel=0.1) and abs(float(spread.mean())) < 0.1


def with_channels(file: Path, count: int) -> None:
    """The file's latents with other channels, as another family's VAE makes them."""
    forget_the_content(file)
    with np.load(file) as data:
        arrays = {name: data[name] for name in data}
    arrays["latents"] = np.resize(arrays["latents"], (count, *arrays["latents"].shape[1:]))
    np.savez(file, **arrays)


def test_latents_of_another_family_are_left_and_the_file_is_named(tmp_path: Path) -> None:
    folder = draw_pictures(tmp_path / "in", 2)
    build(folder, tmp_path / "a", replace(OPTIONS, write_npz=True, flip_aug=False), FakeEncoder())
    (folder / "picture-0_0128x0128_sd.npz").rename(folder / "picture-0.npz")
    with_channels(folder / "picture-0.npz", 16)
    dataset = read_again(folder, tmp_path / "b")
    assert dataset.from_npz == 1 and dataset.notes == [
        "The latents of 1 pictures are not taken from .npz files: 1 of another family of models, with 16 channels "
        "instead of 3 (picture-0.npz)."
    ]
    assert all(dataset.latents[item.keys[0]][0].shape[0] == 3 for item in dataset.items)


def test_a_file_that_does_not_say_its_vae_is_named(tmp_path: Path) -> None:
    folder = draw_pictures(tmp_path / "in", 3)
    build(folder, tmp_path / "a", replace(OPTIONS, write_npz=True, flip_aug=False), FakeEncoder())
    for number in (0, 1):
        file = (folder / f"picture-{number}_0128x0128_sd.npz").rename(folder / f"picture-{number}.npz")
    forget_the_content(file)  # 0 is ours, and says it
    dataset = read_again(folder, tmp_path / "b")
    (note,) = dataset.notes
    assert dataset.from_npz == 3 and note.startswith(
        "1 of the .npz files does not say which VAE made it (picture-1.npz)"
    )


def test_it_is_said_when_there_are_none(tmp_path: Path) -> None:
    (note,) = read_again(draw_pictures(tmp_path / "in", 1), tmp_path / "a").notes
    assert note.startswith("No .npz files of latents for this base model")

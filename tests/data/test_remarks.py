"""What is said of a training set whose pictures or batches are not as one would expect."""

from __future__ import annotations

import shutil
from pathlib import Path

from PIL import Image

from lora_train.config import DataOptions
from lora_train.data.cache import LatentCache
from lora_train.data.remarks import remarks
from lora_train.data.scan import scan
from lora_train.data.training_set import Dataset, build_dataset, count_epoch
from tests.data.test_training_set import FakeEncoder

OPTIONS = DataOptions(resolution=128, min_bucket_reso=64, max_bucket_reso=256, train_batch_size=4)


def built(folder: Path, repeats: int = 1, **sizes: tuple[int, int]) -> Dataset:
    folder.mkdir()
    for number, (name, size) in enumerate(sizes.items()):
        Image.new("RGB", size, (number, 0, 0)).save(folder / f"{name}.png")
    manifest = scan(folder, repeats=repeats)
    dataset = build_dataset(manifest, OPTIONS, FakeEncoder(), LatentCache(folder / "cache"), 8, lambda *_: None)
    batches = dataset.epoch(4, "any")
    assert count_epoch(manifest.pictures, OPTIONS, 8) == (sum(map(len, batches)), len(batches))
    assert dataset.batches_per_epoch(4) == len(batches)
    return dataset


def test_of_full_batches_and_fitting_pictures_nothing_is_said(tmp_path: Path) -> None:
    assert remarks(built(tmp_path / "in", repeats=4, a=(128, 128), b=(256, 128), c=(500, 260)), 4) == []


def test_small_batches_are_said_once(tmp_path: Path) -> None:
    dataset = built(tmp_path / "in", a=(128, 128), b=(192, 96), c=(96, 192), d=(256, 128), e=(128, 224))
    (told,) = remarks(dataset, 4)
    assert told.startswith("2 of 2 batches per epoch hold fewer than 4 pictures") and "2 at 64 x 192" in told
    assert remarks(dataset, 1) == []


def test_thin_and_tiny_pictures_are_told_one_by_one_and_small_ones_counted(tmp_path: Path) -> None:
    sizes = {"strip": (2000, 20), "icon": (16, 16), "small": (60, 60), "little": (50, 50), "good": (128, 128)}
    told = remarks(built(tmp_path / "in", repeats=4, **sizes), 4)
    assert len(told) == 3
    assert told[0].startswith("strip.png, 2000 x 20 pixels: ") and "% of it is trained on" in told[0]
    assert told[1].startswith("icon.png, 16 x 16 pixels: it is enlarged 8 times")
    assert told[2].startswith("2 of 5 pictures are much smaller than the resolution") and "little.png" in told[2]


def test_many_are_not_all_named(tmp_path: Path) -> None:
    told = remarks(built(tmp_path / "in", repeats=4, **{f"s{n}": (2000, 20) for n in range(8)}), 4)
    assert len(told) == 6 and told[5] == "The same is true of 3 more."


def test_copies_are_counted_and_named(tmp_path: Path) -> None:
    dataset = built(tmp_path / "in", repeats=4, a=(128, 128), b=(256, 128))
    for name in ("a (1)", "a (2)"):
        shutil.copy(tmp_path / "in" / "a.png", tmp_path / "in" / f"{name}.png")
    cache = LatentCache(tmp_path / "in" / "cache")
    dataset = build_dataset(
        scan(tmp_path / "in", repeats=4), OPTIONS, FakeEncoder(), cache, 8, lambda done, total: None
    )
    (told,) = remarks(dataset, 4)
    assert told.startswith("2 of 4 pictures are copies of others, and trained on like them (a (2).png of a (1).png)")


def test_what_is_no_latent_wide_is_left_out(tmp_path: Path) -> None:
    Image.new("RGB", (30_000, 2)).save(tmp_path / "strip.png")
    Image.new("RGB", (64, 64)).save(tmp_path / "good.png")
    manifest = scan(tmp_path)
    assert [one.path.name for one in manifest.pictures] == ["good.png"]
    assert "only 30000 x 2 pixels" in manifest.rejected[0].reason and "strip.png" in manifest.summary()

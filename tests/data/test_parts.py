"""The parts that pictures play: weights of concepts, pictures that are held out."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lora_train.config import DataOptions, RunConfig, problems
from lora_train.config.concepts import concept_weights
from lora_train.data.cache import LatentCache
from lora_train.data.parts import assign_parts, held_out
from lora_train.data.remarks import remarks
from lora_train.data.scan import Manifest, scan
from lora_train.data.training_set import build_dataset, count_epoch
from lora_train.errors import LoraTrainError
from tests.conftest import draw_pictures
from tests.data.test_training_set import OPTIONS, FakeEncoder


def assigned(folder: Path, seed: int = 1, **options: Any) -> Manifest:
    manifest = scan(folder)
    assign_parts(manifest, DataOptions(folder=str(folder), **options), seed)
    return manifest


def held(manifest: Manifest) -> set[str]:
    return {picture.path.name for picture in manifest.pictures if picture.held_out}


@pytest.mark.parametrize(
    ("split", "count", "expected"), [(0.25, 8, 2), (0.1, 3, 1), (0.9, 4, 3), (3.0, 8, 3), (9.0, 4, 3), (1.0, 1, 0)]
)
def test_a_share_or_a_number_is_held_out(tmp_path: Path, split: float, count: int, expected: int) -> None:
    manifest = assigned(draw_pictures(tmp_path / "in", count), validation_split=split)
    assert len(held(manifest)) == expected and len(manifest.trained) == count - expected
    assert any("held out for validation" in note for note in manifest.notes)
    assert (f"; {expected} held out for validation" in manifest.summary()) is bool(expected)


def test_which_ones_follows_from_the_seed_and_the_contents(tmp_path: Path) -> None:
    folder = draw_pictures(tmp_path / "in", 12)
    first = held(assigned(folder, validation_split=0.25))
    assert held(assigned(folder, validation_split=0.25)) == first
    assert held(assigned(folder, seed=9, validation_split=0.25, validation_seed=1)) == first
    others = [held(assigned(folder, seed=seed, validation_split=0.25)) for seed in range(2, 8)]
    assert any(other != first for other in others)
    shutil.move(folder, tmp_path / "elsewhere")
    assert held(assigned(tmp_path / "elsewhere", validation_split=0.25)) == first


def test_copies_go_together(tmp_path: Path) -> None:
    folder = draw_pictures(tmp_path / "in", 4)
    for number in range(4):
        shutil.copy(folder / f"picture-{number}.png", folder / f"copy-{number}.png")
    pictures = scan(folder).pictures
    for seed in range(10):
        names = {path.stem for path in held_out(pictures, 0.5, seed)}
        assert len(names) == 4
        assert {name.replace("copy", "picture") for name in names} == {n for n in names if n.startswith("picture")}


def test_what_is_held_out_is_encoded_and_not_trained_on(tmp_path: Path) -> None:
    manifest = assigned(draw_pictures(tmp_path / "in", 6), validation_split=2)
    cache = LatentCache(tmp_path / "cache")
    dataset = build_dataset(manifest, OPTIONS, FakeEncoder(), cache, 8, lambda done, total: None)
    assert [len(dataset.items), len(dataset.held_out)] == [4, 2]
    assert {item.picture.path.name for item in dataset.held_out} == held(manifest)
    assert all(item.keys[0] in dataset.latents for item in dataset.held_out)
    shown = {dataset.items[i].picture.path.name for batch in dataset.epoch(2, "a") for i in batch}
    assert len(shown) == 4 and not shown & held(manifest)
    options = replace(OPTIONS, train_batch_size=2)
    looks = sum(item.picture.repeats for item in dataset.items)
    assert count_epoch(manifest.pictures, options, 8) == (looks, len(dataset.epoch(2, "a")))


def test_regularisation_matches_what_is_trained_on_and_is_never_held_out(tmp_path: Path) -> None:
    folder = draw_pictures(tmp_path / "in", 4)
    draw_pictures(tmp_path / "reg" / "1_woman", 2)
    manifest = assigned(folder, validation_split=0.5, reg_data_dir=str(tmp_path / "reg"))
    shown = [one for one in manifest.pictures if one.reg]
    assert sum(one.repeats for one in shown) == manifest.looks_per_epoch == 20
    assert not any(one.reg and one.held_out for one in manifest.pictures)


def test_concepts_have_weights(tmp_path: Path) -> None:
    for name in ("5_sara woman", "hat"):
        draw_pictures(tmp_path / "in" / name, 1)
    weights = {p.concept: p.weight for p in assigned(tmp_path / "in", concept_weights=("hat=0.5",)).pictures}
    assert weights == {"sara woman": 1.0, "hat": 0.5}
    with pytest.raises(LoraTrainError, match="no concept 'cap'") as caught:
        assigned(tmp_path / "in", concept_weights=("cap=2",))
    assert "hat, sara woman" in caught.value.problems[0].fix


@pytest.mark.parametrize("text", ["hat", "=1", "hat=x", "hat=-1", "hat=nan"])
def test_weights_that_are_none(text: str) -> None:
    with pytest.raises(ValueError, match="weight"):
        concept_weights([text])
    found = problems(RunConfig.from_dict({"data": {"concept_weights": [text], "validation_split": 1.5}}))
    assert {"data.concept_weights", "data.validation_split"} <= {one.where for one in found}


def test_every_picture_at_several_sizes(tmp_path: Path) -> None:
    """Counted once, shown at each; what is held out is not among them; regularisation is."""
    folder = draw_pictures(tmp_path / "in", 4)
    draw_pictures(tmp_path / "reg" / "1_woman", 2)
    names = ("picture-0.png", "picture-1.png")
    options = {"more_resolutions": (64, 192), "validation_split": 1.0, "reg_data_dir": str(tmp_path / "reg")}
    manifest = assigned(folder, **options)
    assert manifest.summary() == "3 pictures in 1 concept, and 2 regularisation pictures; 1 held out for validation"
    plain = replace(OPTIONS, min_bucket_reso=None, max_bucket_reso=None)
    run = replace(plain, min_bucket_reso=64, max_bucket_reso=256, resolution=128)
    cache = LatentCache(tmp_path / "cache")
    dataset = build_dataset(manifest, run, FakeEncoder(), cache, 8, lambda done, total: None)
    sizes = [(item.picture.path.name, item.picture.reg, item.placement.bucket) for item in dataset.items]
    assert len(sizes) == len({*sizes}) == 15 and len(dataset.held_out) == 1
    assert {bucket for _, _, bucket in sizes} == {(64, 64), (128, 128), (192, 192)}
    assert sum(item.picture.repeats for item in dataset.items if not item.picture.reg) == 90
    assert count_epoch(manifest.pictures, run, 8)[0] == 90 and manifest.looks_per_epoch == 30
    # those of regularisation are copies of two of the subject's here; other sizes are no copies
    (copies,) = [note for note in remarks(dataset, 1) if "copies" in note]
    assert copies.startswith(f"{2 - len({*names} & held(manifest))} of 5 pictures")


def test_sizes_that_are_none() -> None:
    found = problems(RunConfig.from_dict({"data": {"more_resolutions": [100, 32], "write_npz": True}}))
    assert [one.where for one in found].count("data.more_resolutions") == 3

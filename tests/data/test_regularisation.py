"""Regularisation pictures: where they come from, how often they are shown, and what of the subject they never get."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from lora_train.config import DataOptions
from lora_train.data.regularisation import add_regularisation, balanced
from lora_train.data.scan import Manifest, Picture
from lora_train.data.sources import read_pictures
from lora_train.data.trigger import trigger_of
from lora_train.errors import LoraTrainError
from tests.conftest import draw_pictures


def read(**options: str) -> Manifest:
    data = DataOptions(**options)  # type: ignore[arg-type]
    manifest = read_pictures(data, 10)
    add_regularisation(manifest, data)
    return manifest


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """kohya's folders: 2 pictures with 10 repeats, 8 of regularisation without captions."""
    draw_pictures(tmp_path / "img" / "10_sara woman", 2)
    draw_pictures(tmp_path / "reg" / "1_woman", 8)
    for caption in (tmp_path / "reg" / "1_woman").glob("*.txt"):
        caption.unlink()
    (tmp_path / "model").mkdir()
    return tmp_path


def test_the_reg_of_a_project_is_used_and_it_is_said(project: Path) -> None:
    manifest = read(folder=str(project), tag="sara")
    assert len(manifest.trained) == 2 and manifest.looks_per_epoch == 20
    reg = [picture for picture in manifest.pictures if picture.reg]
    assert {picture.caption for picture in reg} == {"woman"}
    assert [picture.repeats for picture in reg] == [3, 3, 3, 3, 2, 2, 2, 2]
    assert "8 pictures of reg/ are used as regularisation pictures, 20 times in an epoch beside 20 of the subject." in (
        manifest.notes
    )
    assert manifest.summary() == "2 pictures in 1 concept, and 8 regularisation pictures"
    assert trigger_of(manifest, "") != "woman"


def test_a_folder_of_their_own(project: Path) -> None:
    """As the GUI of kohya_ss names them; and a flat one, also below the others."""
    both = {"folder": str(project / "img"), "reg_data_dir": str(project / "reg")}
    assert sum(picture.reg for picture in read(**both).pictures) == 8
    draw_pictures(project / "img" / "reg", 3)
    manifest = read(folder=str(project / "img"), reg_data_dir=str(project / "img" / "reg"))
    assert len(manifest.trained) == 2 and sum(picture.reg for picture in manifest.pictures) == 3
    with pytest.raises(LoraTrainError, match="no such folder"):
        read(folder=str(project / "img"), reg_data_dir=str(project / "nowhere"))


def _as_kohya(train: int, repeats: list[int]) -> list[int]:
    """The loop of sd-scripts' `DreamBoothDataset`, on numbers; 0 for what is never registered."""
    found, n, first = [0] * len(repeats), 0, True
    while n < train:
        for number, own in enumerate(repeats):
            found[number] += own if first else 1
            n += own if first else 1
            if n >= train:
                break
        first = False
    return found


@pytest.mark.parametrize("seed", range(20))
def test_they_are_repeated_to_match_as_in_sd_scripts(seed: int) -> None:
    rng = random.Random(seed)

    def some(count: int) -> list[Picture]:
        return [Picture(Path(f"{n}.png"), 8, 8, "", "x", rng.randint(1, 6)) for n in range(count)]

    trained, reg = some(rng.randint(1, 30)), some(rng.randint(1, 30))
    expected = _as_kohya(sum(one.repeats for one in trained), [one.repeats for one in reg])
    kept, note = balanced(trained, reg)
    assert [one.repeats for one in kept] == [times for times in expected if times]
    assert [one.path for one in kept] == [one.path for one, times in zip(reg, expected) if times]
    assert ("are not used" in note) is (0 in expected)


def test_without_any_nothing_is_said(tmp_path: Path) -> None:
    draw_pictures(tmp_path / "in", 2)
    manifest = read(folder=str(tmp_path / "in"))
    assert manifest.trained == manifest.pictures and not any("regularisation" in note for note in manifest.notes)

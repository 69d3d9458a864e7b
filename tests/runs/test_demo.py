"""The demo's recipe besides what it learns."""

from __future__ import annotations

from pathlib import Path

import pytest

from lora_train.demo.files import pictures_folder
from lora_train.errors import LoraTrainError
from lora_train.runs.demo import COMMENT, demo_config, write_pictures


def test_its_lora_is_known_by_its_comment(tmp_path: Path) -> None:
    assert demo_config(tmp_path).save.training_comment == COMMENT


def test_a_persons_pictures_are_not_the_demos_to_replace(tmp_path: Path) -> None:
    (tmp_path / "holiday.jpg").write_bytes(b"x")
    with pytest.raises(LoraTrainError, match="holds other files"):
        write_pictures(tmp_path)
    assert (tmp_path / "holiday.jpg").exists()


def test_a_former_demos_pictures_are_replaced(tmp_path: Path) -> None:
    (tmp_path / "1_other").mkdir()
    (tmp_path / "1_other" / "old.png").write_bytes(b"x")
    (tmp_path / "mascot-01.png").write_bytes(b"x")
    write_pictures(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {
        path.name: path.read_bytes() for path in pictures_folder().iterdir()
    }

"""Files that are not written over."""

from __future__ import annotations

from pathlib import Path

import pytest

from lora_train.atomic import free_path
from lora_train.errors import LoraTrainError


def test_the_first_free_name_is_taken_at_once(tmp_path: Path) -> None:
    wanted = tmp_path / "new" / "a.png"
    names = [free_path(wanted).name for _ in range(3)]
    assert names == ["a.png", "a-2.png", "a-3.png"]


def test_a_link_to_nothing_is_somebodys(tmp_path: Path) -> None:
    try:
        (tmp_path / "a.png").symlink_to(tmp_path / "on another disk.png")
    except OSError:
        pytest.skip("no links here")
    assert free_path(tmp_path / "a.png").name == "a-2.png"


def test_a_file_in_place_of_the_folder_is_said(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    with pytest.raises(LoraTrainError, match="cannot write the file"):
        free_path(tmp_path / "a" / "b.png")

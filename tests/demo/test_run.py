"""What the demo does besides training."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lora_train.demo.run import COMMENT, NAME, demo_config, offer_on_the_page, run_demo, write_pictures
from lora_train.errors import LoraTrainError
from lora_train.lorafile.writing import serialise


def _made(folder: Path, comment: str, value: float) -> Path:
    """A LoRA as a training leaves it: with its card and preview."""
    folder.mkdir(parents=True)
    (folder / f"{NAME}.safetensors").write_bytes(
        serialise({"x": torch.tensor(value)}, {"ss_training_comment": comment})
    )
    (folder / f"{NAME}.json").write_text(f'{{"notes": "{value}"}}', encoding="utf-8")
    (folder / f"{NAME}.preview.png").write_bytes(b"picture %d" % value)
    return folder


def _all(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_its_lora_is_known_by_its_comment(tmp_path: Path) -> None:
    assert demo_config(tmp_path).save.training_comment == COMMENT


def test_the_page_gets_the_lora_with_card_and_preview(tmp_path: Path) -> None:
    out = _made(tmp_path / "out", COMMENT, 1)
    assert offer_on_the_page(out, tmp_path / "loras") == ""
    assert _all(tmp_path / "loras") == _all(out)


def test_the_next_demo_renews_the_lora_and_keeps_what_a_person_made_of_its_card(tmp_path: Path) -> None:
    out, there = _made(tmp_path / "out", COMMENT, 2), _made(tmp_path / "loras", COMMENT, 1)
    before = _all(there)
    assert offer_on_the_page(out, there) == ""
    assert _all(there) == before | {f"{NAME}.safetensors": _all(out)[f"{NAME}.safetensors"]}


def test_a_persons_own_lora_of_that_name_stays(tmp_path: Path) -> None:
    out, theirs = _made(tmp_path / "out", COMMENT, 1), _made(tmp_path / "loras", "", 5)
    before = _all(theirs)
    assert "another LoRA of that name" in offer_on_the_page(out, theirs)
    assert _all(theirs) == before


def test_the_pages_own_folder_is_left_as_it_is(tmp_path: Path) -> None:
    out = _made(tmp_path / "loras", COMMENT, 1)
    before = _all(out)
    assert offer_on_the_page(out, out) == ""
    assert _all(out) == before


def test_a_persons_pictures_and_lora_are_not_the_demos_to_replace(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "holiday.jpg").write_bytes(b"x")
    with pytest.raises(LoraTrainError, match="other things than the demo's pictures"):
        run_demo(tmp_path)
    assert (tmp_path / "pictures" / "holiday.jpg").exists()
    loras = _made(tmp_path / "loras", "", 5)
    with pytest.raises(LoraTrainError, match="another LoRA of the demo's name"):
        run_demo(loras)


def test_a_former_demos_pictures_are_replaced(tmp_path: Path) -> None:
    for _ in range(2):
        write_pictures(tmp_path)
        extra = tmp_path / "1_other" / "old.png"
        assert not extra.exists()
        extra.write_bytes(b"x")

"""What lies beside pictures and LoRA files is read under the same rule as they are: no link leads out."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lora_train.config import DataOptions, PrepareOptions
from lora_train.data.cache import LatentCache
from lora_train.data.masks import attach_masks
from lora_train.data.scan import scan
from lora_train.data.sources import read_pictures
from lora_train.data.training_set import build_dataset
from lora_train.errors import LoraTrainError
from lora_train.links import leads_out
from lora_train.lorafile.sidecar import activation_text, write_preview, write_sidecar
from lora_train.prepare import Services, prepare
from tests.conftest import draw_pictures
from tests.data.test_training_set import FakeEncoder

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
SECRET = "secret words"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two pictures; the caption of one is a link out, that of the other one that stays."""
    folder = draw_pictures(tmp_path / "in", 2)
    for caption in folder.glob("*.txt"):
        caption.unlink()
    (tmp_path / "secret.txt").write_text(SECRET)
    (folder / "picture-0.txt").symlink_to(tmp_path / "secret.txt")
    (folder / "shared.text").write_text("a cat")
    (folder / "picture-1.txt").symlink_to(folder / "shared.text")
    return folder


@pytest.fixture
def inside(folder: Path) -> Callable[[Path], bool]:
    return lambda path: path.resolve().is_relative_to(folder.resolve())


def test_which_links_lead_out(folder: Path, inside: Callable[[Path], bool]) -> None:
    (folder / "loop").symlink_to(folder / "loop")
    expected = {"picture-0.txt": True, "picture-1.txt": False, "picture-1.png": False, "none": False}
    assert {name: leads_out(folder / name, inside) for name in expected} == expected
    assert not leads_out(folder / "picture-0.txt", lambda path: True)
    assert leads_out(folder / "loop", lambda path: False)


def test_captions(folder: Path, inside: Callable[[Path], bool]) -> None:
    assert [one.caption for one in scan(folder).pictures] == [SECRET, "a cat"]
    manifest = scan(folder, may_read=inside)
    assert [one.caption for one in manifest.pictures] == ["", "a cat"]
    told = "1 caption file is a link out of the folders that may be used, and not read: picture-0.txt."
    assert told in manifest.notes


def test_captions_of_a_dataset_config(folder: Path, inside: Callable[[Path], bool], tmp_path: Path) -> None:
    config = folder / "config.json"
    config.write_text(
        json.dumps({"datasets": [{"subsets": [{"image_dir": str(folder), "caption_extension": ".txt"}]}]})
    )
    manifest = read_pictures(DataOptions(dataset_config=str(config)), 1, inside)
    assert [one.caption for one in manifest.pictures] == ["", "a cat"]
    assert any("picture-0.txt" in note for note in manifest.notes)


def test_captions_of_a_preparation(folder: Path, inside: Callable[[Path], bool], tmp_path: Path) -> None:
    options = PrepareOptions(operations=("original",), min_size=0)
    prepared = prepare(folder, options, tmp_path / "work", Services(may_read=inside))
    copies = {file.name: file.read_text() for file in prepared.folder.glob("*.txt")}
    assert copies == {"picture-1.txt": "a cat"}
    assert SECRET not in (tmp_path / "work" / "report.json").read_text()
    assert any("picture-0.txt" in note for note in prepared.notes)


def test_an_imagefolders_metadata(folder: Path, inside: Callable[[Path], bool], tmp_path: Path) -> None:
    (folder / "picture-1.txt").unlink()
    (tmp_path / "far.jsonl").write_text(json.dumps({"file_name": "picture-1.png", "text": SECRET}))
    (folder / "metadata.jsonl").symlink_to(tmp_path / "far.jsonl")
    options = DataOptions(folder=str(folder))
    assert [one.caption for one in read_pictures(options, 1).pictures] == [SECRET, SECRET]
    manifest = read_pictures(options, 1, inside)
    assert [one.caption for one in manifest.pictures] == ["", ""]
    assert any("metadata.jsonl is not used: it is a link out" in note for note in manifest.notes)


def test_latents(folder: Path, inside: Callable[[Path], bool], tmp_path: Path) -> None:
    def build(cache: str, **more: Any) -> Any:
        encoder, options = FakeEncoder(), DataOptions(**{"resolution": 128, "min_bucket_reso": 64} | more)
        options = DataOptions(**{**vars(options), "max_bucket_reso": 256})
        return build_dataset(
            scan(folder), options, encoder, LatentCache(tmp_path / cache), 8, lambda a, b: None, may_read=inside
        )

    build("a", write_npz=True)
    file = folder / "picture-0_0128x0128_sd.npz"
    file.rename(tmp_path / "far.npz")
    file.symlink_to(tmp_path / "far.npz")
    dataset = build("b", read_npz=True)
    assert dataset.from_npz == 1
    assert dataset.notes == [
        "The latents of 1 pictures are not taken from .npz files: 1 a link out of the folders that may be used "
        f"({file.name})."
    ]


def test_masks_in_a_folder_and_beside(folder: Path, inside: Callable[[Path], bool], tmp_path: Path) -> None:
    Image.fromarray(np.full((128, 128), 255, np.uint8)).save(tmp_path / "far.png")
    masks = folder / "masks-of-mine"
    masks.mkdir()
    (masks / "picture-0.png").symlink_to(tmp_path / "far.png")
    manifest = scan(folder, may_read=inside)
    assert attach_masks(manifest, masks) == 1
    with pytest.raises(LoraTrainError, match="no picture has a mask"):
        attach_masks(manifest, masks, inside)
    (folder / "picture-1_mask.png").symlink_to(tmp_path / "far.png")
    assert scan(folder).beside and not scan(folder, may_read=inside).beside


def test_cards(folder: Path, inside: Callable[[Path], bool], tmp_path: Path) -> None:
    far, lora = tmp_path / "far.json", folder / "sara.safetensors"
    far.write_text(json.dumps({"activation text": SECRET}))
    (folder / "sara.json").symlink_to(far)
    assert activation_text(lora) == SECRET and activation_text(lora, inside) == ""
    writes: tuple[Callable[[], Path], ...] = (
        lambda: write_sidecar(lora, "sks", "sd_v1", "notes", may_read=inside),
        lambda: write_preview(lora, b"picture", may_read=inside),
    )
    for write in writes:
        with pytest.raises(LoraTrainError, match="the card is a link out of the folders"):
            write()
    assert json.loads(far.read_text()) == {"activation text": SECRET}
    write_sidecar(lora, "sks", "sd_v1", "notes")
    assert len(json.loads(far.read_text())) > 1

"""Metadata is changed and tensors are not."""

from __future__ import annotations

from pathlib import Path

import pytest
import safetensors.torch
import torch
from safetensors import safe_open

from lora_train.cli import main
from lora_train.errors import LoraTrainError
from lora_train.lorafile.editing import MAX_THUMBNAIL, THUMBNAIL, edit_metadata, thumbnail
from lora_train.lorafile.writing import Slot, dtype_name, model_hashes, serialise, write_lora, write_stream
from tests.lorafile.samples import lora_tensors


def _file(path: Path, wide: int = 0) -> Path:
    tensors = lora_tensors() | ({"lora_unet_conv_in.diff": torch.rand(wide)} if wide else {})
    write_lora(path, tensors, {"ss_a": "1", "modelspec.title": "t"}, "fp32", False)
    return path


@pytest.mark.parametrize("wide", [0, 400_000])
def test_fields_are_put_and_removed(wide: int, tmp_path: Path) -> None:
    path = _file(tmp_path / "a.safetensors", wide)
    edit_metadata(path, tmp_path / "b.safetensors", {"ss_b": "ü", "x": "2"}, ["modelspec.title"])
    before, after = (safetensors.torch.load_file(tmp_path / f"{n}.safetensors") for n in "ab")
    assert before.keys() == after.keys() and all(torch.equal(before[key], after[key]) for key in before)
    with safe_open(tmp_path / "b.safetensors", "pt") as file:
        told = file.metadata()
    hashes = model_hashes(after, told)
    assert told == {"ss_a": "1", "ss_b": "ü", "x": "2", **hashes}
    edit_metadata(tmp_path / "b.safetensors", tmp_path / "b.safetensors", {}, strip=True, overwrite=True)
    with safe_open(tmp_path / "b.safetensors", "pt") as file:
        assert not file.metadata()


def test_what_cannot_be_changed_is_told(tmp_path: Path) -> None:
    path = _file(tmp_path / "a.safetensors")
    with pytest.raises(LoraTrainError, match="exists already"):
        edit_metadata(path, path, {"a": "b"})
    with pytest.raises(LoraTrainError, match="no field nothing"):
        edit_metadata(path, path, {}, ["nothing"], overwrite=True)
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(LoraTrainError, match="damaged"):
        edit_metadata(path, tmp_path / "b.safetensors", {"a": "b"})
    assert not (tmp_path / "b.safetensors").exists()


def test_a_picture_is_embedded(base: Path, tmp_path: Path) -> None:
    import base64

    picture = tmp_path / "p.png"
    picture.write_bytes(b"\x89PNG\r\n\x1a\n123")
    kind, _, data = thumbnail(picture).partition(",")
    assert kind == "data:image/png;base64" and base64.b64decode(data) == picture.read_bytes()
    path = _file(tmp_path / "a.safetensors")
    assert main(["file", "metadata", str(path), "--thumbnail", str(picture), "--overwrite"]) == 0
    with safe_open(path, "pt") as file:
        assert file.metadata()[THUMBNAIL] == thumbnail(picture)
    picture.write_bytes(b"text")
    with pytest.raises(LoraTrainError, match="not a PNG"):
        thumbnail(picture)
    picture.write_bytes(b"\x89PNG\r\n" + b"0" * MAX_THUMBNAIL)
    with pytest.raises(LoraTrainError, match="smaller than 2 MB"):
        thumbnail(picture)


def test_a_stream_has_the_bytes_of_the_whole(tmp_path: Path) -> None:
    tensors = lora_tensors() | {"half": torch.rand(3).half(), "long": torch.arange(3), "empty": torch.empty(0)}
    slots = {n: Slot(dtype_name(v), tuple(v.shape), lambda v=v: v) for n, v in tensors.items()}  # type: ignore[misc]
    write_stream(tmp_path / "x", slots, {"b": "1", "a": "ü"})
    assert (tmp_path / "x").read_bytes() == serialise(tensors, {"b": "1", "a": "ü"})

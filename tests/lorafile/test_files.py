from __future__ import annotations

import hashlib
import json
import random
import struct
from io import BytesIO
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st

from lora_train.errors import LoraTrainError
from lora_train.lorafile.metadata import base_hashes
from lora_train.lorafile.reading import file_metadata, read_lora
from lora_train.lorafile.writing import model_hashes, serialise, write_lora


def _tensors(width: int = 6) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "lora_unet_x.alpha": torch.tensor(4.0),
        "lora_unet_x.lora_down.weight": torch.randn(2, width, generator=generator),
        "lora_unet_x.lora_up.weight": torch.randn(width, 2, generator=generator),
    }


def test_what_is_written_is_read_by_the_library_and_by_us(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write_lora(path, _tensors(), {"ss_a": "ü", "b": "2"}, "fp32", overwrite=False)
    with safetensors.safe_open(path, framework="pt") as file:
        assert file.metadata()["ss_a"] == "ü"
    ours = read_lora(path)
    assert ours.metadata["b"] == "2"
    for name, value in safetensors.torch.load_file(path).items():
        assert torch.equal(value, _tensors()[name]) and torch.equal(value, ours.tensors[name])


@given(st.dictionaries(st.text(max_size=20), st.text(max_size=50), max_size=8))
def test_the_same_content_gives_the_same_bytes_and_any_text_survives(metadata: dict[str, str]) -> None:
    metadata = {k: v for k, v in metadata.items() if k.isprintable() and v.isprintable()}
    data = serialise(_tensors(), metadata)
    assert data == serialise(dict(reversed(_tensors().items())), dict(reversed(metadata.items())))
    assert (8 + struct.unpack("<Q", data[:8])[0]) % 8 == 0
    assert safetensors.torch.load(data).keys() == _tensors().keys()


def test_hashes_are_those_of_the_webui() -> None:
    """Written from additional-networks' description: SHA-256 of the data; of 64 KiB at 1 MiB."""
    tensors = _tensors(400_000)
    metadata = {"ss_seed": "1", "modelspec.title": "x"}
    found = model_hashes(tensors, metadata)
    stream = BytesIO(serialise(tensors, {"ss_seed": "1"}))
    stream.seek(8 + int.from_bytes(stream.read(8), "little"))
    assert found["sshs_model_hash"] == hashlib.sha256(stream.read()).hexdigest()
    stream.seek(0x100000)
    assert found["sshs_legacy_hash"] == hashlib.sha256(stream.read(0x10000)).hexdigest()[:8]


@pytest.mark.parametrize("precision", ["fp16", "bf16", "fp32"])
def test_the_hashes_are_of_what_is_written(tmp_path: Path, precision: str) -> None:
    """Not of what was there before it was narrowed; tensors that stay as they are count, too."""
    path, kept = tmp_path / "a.safetensors", {"lora_te_y.lora_up.weight": torch.randn(300, 1000)}
    write_lora(path, _tensors(200_000), {"ss_seed": "1", "title": "x"}, precision, False, kept)
    data = path.read_bytes()
    metadata = file_metadata(path)
    start = 8 + struct.unpack("<Q", data[:8])[0]
    assert metadata["sshs_model_hash"] == hashlib.sha256(data[start:]).hexdigest()
    bare = safetensors.torch.save(safetensors.torch.load(data), {"ss_seed": "1"})
    assert metadata["sshs_legacy_hash"] == hashlib.sha256(bare[0x100000:0x110000]).hexdigest()[:8]


def test_an_existing_file_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_text("mine")
    with pytest.raises(LoraTrainError, match="exists already"):
        write_lora(path, _tensors(), {}, "fp16", overwrite=False)
    assert path.read_text() == "mine"
    write_lora(path, _tensors(), {}, "fp16", overwrite=True)
    dtypes = {key.partition(".")[2]: value.dtype for key, value in read_lora(path).tensors.items()}
    assert dtypes["alpha"] == torch.float32 and dtypes["lora_down.weight"] == torch.float16


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(LoraTrainError, match="cannot write"):
        write_lora(tmp_path / "file" / "a.safetensors", _tensors(), {}, "fp16", overwrite=False)


def test_a_failing_disk_leaves_the_old_file_and_no_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.safetensors"
    write_lora(path, _tensors(), {}, "fp16", overwrite=False)
    before = path.read_bytes()

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(LoraTrainError, match="No space left"):
        write_lora(path, _tensors(50), {}, "fp16", overwrite=True)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]


def test_what_is_no_lora_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    for content, message in (
        (b"", "not a safetensors"),
        (b"hello", "not a safetensors"),
        (struct.pack("<Q", 2**60) + b"{}", "not a safetensors"),
        (struct.pack("<Q", 20) + b'["a", "b", "c", "d"]', "not a table"),
        (serialise(_tensors(), {})[:-5], "damaged"),
        (serialise({"model.x": torch.ones(1)}, {}), "not a LoRA"),
    ):
        path.write_bytes(content)
        with pytest.raises(LoraTrainError, match=message):
            read_lora(path)
    with pytest.raises(LoraTrainError, match="no such LoRA"):
        read_lora(tmp_path / "b.safetensors")


def test_base_hashes(tmp_path: Path) -> None:
    path = tmp_path / "model.ckpt"
    path.write_bytes(random.Random(0).randbytes(2_000_000))  # the same nowhere twice
    found = base_hashes(path)
    content = path.read_bytes()
    assert found["ss_new_sd_model_hash"] == hashlib.sha256(content).hexdigest()
    assert found["ss_sd_model_hash"] == hashlib.sha256(content[0x100000:0x110000]).hexdigest()[:8]


def test_header_is_json_with_sorted_metadata() -> None:
    data = serialise(_tensors(), {"b": "1", "a": "2"})
    header = json.loads(data[8 : 8 + struct.unpack("<Q", data[:8])[0]])
    assert next(iter(header)) == "__metadata__"
    assert list(header["__metadata__"]) == ["a", "b"]

"""By which hash a file is known, whatever its metadata say."""

from __future__ import annotations

import hashlib
import struct
from pathlib import Path

import pytest
import safetensors.torch

from lora_train.cli import main
from lora_train.lorafile.hashes import OF_NOTHING, model_hash
from lora_train.lorafile.reading import file_metadata
from lora_train.lorafile.writing import model_hashes, serialise
from tests.lorafile.samples import lora_tensors

AITK = {"sshs_model_hash": OF_NOTHING, "sshs_legacy_hash": OF_NOTHING[:8], "name": "my_lora", "ss_steps": "500"}


def _file(path: Path, metadata: dict[str, str], seed: int = 0) -> Path:
    path.write_bytes(serialise(lora_tensors(seed=seed), metadata))
    return path


def _of_data(path: Path) -> str:
    """The WebUI's: SHA-256 of what lies behind the header."""
    data = path.read_bytes()
    return hashlib.sha256(data[8 + struct.unpack("<Q", data[:8])[0] :]).hexdigest()


@pytest.mark.parametrize("told", ["", OF_NOTHING, OF_NOTHING.upper(), "None", "xyz"])
def test_what_is_absent_or_wrong_is_computed(told: str, tmp_path: Path) -> None:
    path = _file(tmp_path / "a.safetensors", {"sshs_model_hash": told} if told else {"a": "b"})
    assert model_hash(path, file_metadata(path)) == _of_data(path)


def test_what_is_told_is_believed(tmp_path: Path) -> None:
    path = _file(tmp_path / "a.safetensors", {"sshs_model_hash": "ab" * 32})
    assert model_hash(path, file_metadata(path)) == "ab" * 32


def test_other_files_are_known_by_all_their_bytes(tmp_path: Path) -> None:
    (tmp_path / "a.pt").write_bytes(b"123")
    assert model_hash(tmp_path / "a.pt", {}) == hashlib.sha256(b"123").hexdigest()
    assert model_hash(tmp_path, {}) == "" and model_hash(tmp_path / "gone.safetensors", {}) == ""


@pytest.mark.parametrize("metadata", [AITK, {"ss_steps": "500"}])
def test_files_that_are_written_have_their_own_hashes(metadata: dict[str, str], tmp_path: Path) -> None:
    first, second = (_file(tmp_path / f"{n}.safetensors", metadata, n) for n in (1, 2))
    outputs = [tmp_path / f"{name}.safetensors" for name in ("merged", "resized", "converted", "edited")]
    merged, resized, converted, edited = map(str, outputs)
    assert main(["file", "merge", str(first), str(second), "--output", merged]) == 0
    assert main(["file", "resize", str(first), "--rank", "2", "--output", resized]) == 0
    assert main(["file", "convert", str(first), "--to", "diffusers", "--output", converted]) == 0
    assert main(["file", "metadata", str(first), "--set", "a=b", "--output", edited]) == 0
    for output in outputs:
        told = file_metadata(output)
        assert told["sshs_model_hash"] == _of_data(output)
        assert told["sshs_legacy_hash"] == model_hashes(safetensors.torch.load_file(output), told)["sshs_legacy_hash"]


def test_who_takes_the_hashes_out_gets_none(tmp_path: Path) -> None:
    path = _file(tmp_path / "a.safetensors", AITK)
    removed = ["--remove", "sshs_model_hash", "--remove", "sshs_legacy_hash"]
    assert main(["file", "metadata", str(path), *removed, "--overwrite"]) == 0
    assert not {"sshs_model_hash", "sshs_legacy_hash"} & file_metadata(path).keys()
    assert main(["file", "metadata", str(path), "--strip", "--overwrite"]) == 0
    assert file_metadata(path) == {}

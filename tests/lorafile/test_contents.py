"""What is no LoRA is named by what it is."""

from __future__ import annotations

import gzip
import io
import json
import struct
import zipfile
from pathlib import Path

import pytest
import torch

from lora_train.cli import main
from lora_train.errors import LoraTrainError
from lora_train.lorafile.reading import read_lora
from lora_train.lorafile.writing import serialise
from tests.lorafile.samples import lora_tensors

GOOD = serialise(lora_tensors(), {})


def _zipped() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("good.safetensors", GOOD)
    return buffer.getvalue()


def _torch_file() -> bytes:
    buffer = io.BytesIO()
    torch.save(lora_tensors(), buffer)
    return buffer.getvalue()


BYTES = {
    "a web page": (b"<!DOCTYPE html><html><head><title>Sign in</title>" + b"x" * 2000, "a web page"),
    "a web page with a mark and blanks": (b"\xef\xbb\xbf \n<HTML lang=en>", "a web page"),
    "XML": (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "an XML document"),
    "an error as JSON": (b'{"error":"Unauthorized","message":"log in first"}', "Unauthorized: log in first"),
    "another JSON": (b'{"data": {"a": 1}}', "a JSON document"),
    "Git LFS": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "git lfs pull"),
    "zip": (_zipped(), "a zip archive"),
    "zip cut off": (_zipped()[:40], "cut off"),
    "torch's file": (_torch_file(), "Rename it to end in .pt"),
    "gzip": (gzip.compress(GOOD), "a gzip archive"),
    "7z": (b"7z\xbc\xaf\x27\x1c" + b"0" * 50, "a 7z archive"),
    "GGUF": (b"GGUF\x03\0\0\0" + b"0" * 50, "a GGUF file"),
    "a picture": (b"\x89PNG\r\n\x1a\n" + b"0" * 50, "a PNG picture"),
    "a program": (b"MZ\x90\0" + b"\0" * 60, "Do not run it"),
    "zeros": (b"\0" * 4096, "a file of zeros"),
    "empty": (b"", "an empty file"),
    "a text": (b"Not Found\n", 'a text ("Not Found")'),
    "half": (GOOD[: len(GOOD) // 2], f"stopped at {len(GOOD) // 2} of {len(GOOD)} bytes"),
    "cut in its header": (GOOD[:60], "stopped at 60 of at least"),
}


@pytest.mark.parametrize("what", BYTES)
def test_first_bytes_tell(what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content, message = BYTES[what]
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    for tool in (
        ["inspect", str(path)],
        ["convert", str(path), "--to", "kohya", "--output", str(tmp_path / "y.safetensors")],
    ):
        assert main(["file", *tool]) == 2
        shown = capsys.readouterr().err
        assert message in shown and str(path) in shown and "Traceback" not in shown


@pytest.mark.parametrize("what", ["a web page", "Git LFS", "an error as JSON", "empty", "zip"])
def test_first_bytes_tell_under_other_names_too(what: str, tmp_path: Path) -> None:
    content, message = BYTES[what]
    (tmp_path / "x.ckpt").write_bytes(content)
    with pytest.raises(LoraTrainError) as caught:
        read_lora(tmp_path / "x.ckpt")
    assert message in str(caught.value)


def test_a_safetensors_file_under_another_name_is_read(tmp_path: Path) -> None:
    (tmp_path / "x.pt").write_bytes(serialise(lora_tensors(), {"ss_a": "1"}))
    file = read_lora(tmp_path / "x.pt")
    assert file.tensors.keys() == lora_tensors().keys() and file.metadata == {"ss_a": "1"}


KEYS = {
    "a checkpoint": (["model.diffusion_model.out.2.bias", "first_stage_model.decoder.conv_in.bias"], "a checkpoint"),
    "a VAE": (["encoder.down.0.block.0.conv1.weight", "decoder.conv_in.weight"], "a VAE"),
    "an embedding": (["emb_params"], "an embedding"),
    "an embedding for SDXL": (["clip_l", "clip_g"], "an embedding"),
    "a ControlNet": (["control_model.input_blocks.0.0.weight"], "a ControlNet"),
    "a ControlNet of diffusers": (["controlnet_cond_embedding.conv_in.weight", "conv_in.weight"], "a ControlNet"),
    "a UNet": (["down_blocks.0.resnets.0.conv1.weight", "conv_in.weight"], "the UNet"),
    "a text encoder": (["text_model.encoder.layers.0.mlp.fc1.weight"], "a text encoder"),
    "cloneofsimo's": (["unet:0:up", "unet:0:down", "text_encoder:0:up"], "cloneofsimo"),
    "an upscaler": (["model.0.weight", "model.1.sub.0.RDB1.conv1.0.weight"], "an upscaler"),
    "IP-Adapter": (["image_proj.proj.weight", "ip_adapter.1.to_k_ip.weight"], "an IP-Adapter"),
    "a LoRA for Flux": (["transformer.single_transformer_blocks.0.attn.to_q.lora_A.weight"], "a LoRA for Flux"),
    "a language model's": (["base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"], "a language model"),
    "something": (["some.thing"], "none of its 1 keys belongs to a LoRA (some.thing)"),
}  # fmt: skip


@pytest.mark.parametrize("what", KEYS)
def test_keys_tell(what: str, tmp_path: Path) -> None:
    keys, message = KEYS[what]
    path = tmp_path / "x.safetensors"
    path.write_bytes(serialise({key: torch.ones(2, 2) for key in keys}, {}))
    with pytest.raises(LoraTrainError) as caught:
        read_lora(path)
    assert message in str(caught.value) and str(path) in str(caught.value)


def test_a_safetensors_file_without_tensors(tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").write_bytes(struct.pack("<Q", 2) + b"{}")
    with pytest.raises(LoraTrainError, match="without any tensors"):
        read_lora(tmp_path / "x.safetensors")


def test_what_torch_saved_without_names_is_told(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    for content, message in (
        ([torch.ones(2, 2), torch.ones(2, 2)], "cloneofsimo"),
        ({"string_to_token": {"*": 265}, "string_to_param": {"*": torch.ones(1, 768)}}, "an embedding"),
    ):
        torch.save(content, path)
        with pytest.raises(LoraTrainError, match=message):
            read_lora(path)


def _with_metadata(metadata: object) -> bytes:
    length = struct.unpack("<Q", GOOD[:8])[0]
    header = {"__metadata__": metadata, **json.loads(GOOD[8 : 8 + length])}
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + GOOD[8 + length :]


def test_metadata_that_are_no_texts_are_read_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = tmp_path / "x.safetensors", tmp_path / "y.safetensors"
    path.write_bytes(_with_metadata({"ss_steps": 100, "x": None, "y": {"z": [1]}, "name": "n"}))
    file = read_lora(path)
    assert file.metadata == {"ss_steps": "100", "x": "null", "y": '{"z": [1]}', "name": "n"}
    assert "3 of its metadata fields are not texts (ss_steps, x, y)" in file.notes[0]
    assert all(torch.equal(value, file.tensors[key]) for key, value in lora_tensors().items())
    assert main(["file", "metadata", str(path), "--set", "a=b", "--output", str(out)]) == 0
    assert read_lora(out).metadata["ss_steps"] == "100" and read_lora(out).notes == ()


@pytest.mark.parametrize("metadata", [[1, 2], "text", 5, {"a": "\ud800"}])
def test_metadata_that_are_no_table_or_no_unicode(metadata: object, tmp_path: Path) -> None:
    path, out = tmp_path / "x.safetensors", tmp_path / "y.safetensors"
    path.write_bytes(_with_metadata(metadata))
    assert read_lora(path).metadata == ({"a": "\ufffd"} if isinstance(metadata, dict) else {})
    assert main(["file", "convert", str(path), "--to", "kohya", "--output", str(out)]) == 0
    assert read_lora(out).tensors.keys() == lora_tensors().keys()

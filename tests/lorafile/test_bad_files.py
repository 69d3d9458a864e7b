"""Files that are damaged, hostile or something else: a message that names file and keys, never anything worse."""

from __future__ import annotations

import io
import json
import pickle
import random
import re
import struct
import tarfile
import zipfile
from pathlib import Path

import pytest
import torch

from lora_train.errors import LoraTrainError
from lora_train.lorafile.inspecting import inspect
from lora_train.lorafile.reading import read_lora
from lora_train.lorafile.writing import serialise
from tests.lorafile.samples import lora_tensors


def _file(header: object, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def _entry(start: int, end: int, shape: list[int], dtype: str = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


GOOD = serialise(lora_tensors(), {"ss_base_model_version": "sd_v1"})
NAME = "lora_unet_mid_block_attentions_0_proj_in.lora_down.weight"

BROKEN = {
    "empty": (b"", "not a safetensors"),
    "header cut off": (GOOD[:50], "stopped at 50 of at least"),
    "data cut off": (GOOD[:-7], "stopped at .* of .* bytes"),
    "data too long": (GOOD + b"1234", "damaged"),
    "header beyond the format's limit": (_file({}, length=200_000_000), "not a safetensors"),
    "header of a size that overflows": (_file({}, length=2**64 - 1), "not a safetensors"),
    "claims 8 exabytes": (_file({NAME: _entry(0, 2**62, [2**30, 2**30])}), "damaged"),
    "negative offsets": (_file({NAME: _entry(-4, 4, [2])}, b"12345678"), "damaged"),
    "overlapping": (
        _file({NAME: _entry(0, 8, [2]), NAME.replace("down", "up"): _entry(4, 12, [2])}, b"1" * 12),
        "damaged",
    ),
    "a hole": (_file({NAME: _entry(8, 16, [2])}, b"1" * 16), "damaged"),
    "a dtype of its own": (_file({NAME: _entry(0, 8, [2], "X9")}, b"1" * 8), "damaged"),
    "a key twice": (
        _file(b'{"%b":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"%b":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
        % (NAME.encode(), NAME.encode()), b"1234"),
        "there twice",
    ),
    "deep": (_file(b"[" * 50_000 + b"]" * 50_000), "not a safetensors"),
    "an entry that is a number": (_file({NAME: 5}), "does not say where"),
}  # fmt: skip


@pytest.mark.parametrize("what", BROKEN)
def test_broken_files_are_named(what: str, tmp_path: Path) -> None:
    content, message = BROKEN[what]
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(LoraTrainError, match=message) as caught:
        read_lora(path)
    assert str(path) in str(caught.value)


def _changed(change: str, value: torch.Tensor | None) -> dict[str, torch.Tensor]:
    tensors = dict(lora_tensors())
    if value is None:
        del tensors[change]
    else:
        tensors[change] = value
    return tensors


UP = NAME.replace("down", "up")

WRONG = {
    "a half is missing": (_changed(NAME, None), f"{NAME}"),
    "ranks differ": (_changed(NAME, torch.ones(3, 8)), "proj_in.*(3, 8)"),
    "too many dimensions": (_changed(NAME, torch.ones(4, 8, 1)), "proj_in"),
    "no dimension": (_changed(NAME, torch.ones(())), "proj_in"),
    "nothing in it": (_changed(NAME, torch.ones(0, 8)), "proj_in"),
    "NaN": (_changed(UP, torch.full((8, 4), float("nan"))), UP),
    "infinite": (_changed(UP, torch.full((8, 4), float("inf"))), UP),
    "infinities that cancel": (_changed(UP, torch.tensor([[float("inf"), float("-inf"), 0, 0]] * 8)), UP),
    "alpha is NaN": (_changed(NAME.replace("lora_down.weight", "alpha"), torch.tensor(float("nan"))), "alpha"),
    "alpha is a vector": (_changed(NAME.replace("lora_down.weight", "alpha"), torch.ones(2)), "alpha"),
    "a scalar in another kind": (
        {"lora_unet_x.lokr_w1": torch.ones(()), "lora_unet_x.lokr_w2": torch.ones(2, 2)}, "lora_unet_x.lokr_w1 ()"
    ),
    "nothing in another kind": (
        {"lora_unet_x.lokr_w1": torch.ones(2, 2), "lora_unet_x.lokr_w2": torch.ones(0, 2)}, "lokr_w2 (0, 2)"
    ),
    "no side": ({"lora_unet_x.weight": torch.ones(2), "lora_unet_x.on_input": torch.ones(0)}, "on_input (0,)"),
    "a scalar magnitude": (_changed(NAME.replace("lora_down.weight", "dora_scale"), torch.ones(())), "dora_scale ()"),
    "alpha alone": ({"lora_unet_x.alpha": torch.ones(())}, "no network of a known kind (lora_unet_x.alpha)"),
    "keys of a checkpoint": ({"model.diffusion_model.out.2.weight": torch.ones(2)}, "a checkpoint"),
    "nothing but keys nobody knows": ({"first_stage.x": torch.ones(2)}, "first_stage.x"),
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG)
def test_wrong_contents_are_named(what: str, tmp_path: Path) -> None:
    tensors, message = WRONG[what]
    path = tmp_path / "x.safetensors"
    path.write_bytes(serialise(tensors, {}))
    with pytest.raises(LoraTrainError) as caught:
        read_lora(path)
    assert re.search(message.replace("(", r"\(").replace(")", r"\)"), str(caught.value))
    assert str(path) in str(caught.value)


def test_all_problems_are_told_together_and_inspect_goes_on(tmp_path: Path) -> None:
    tensors = _changed(UP, torch.full((8, 4), float("nan")))
    tensors["lora_unet_out.lora_up.weight"] = torch.ones(2, 2)
    path = tmp_path / "x.safetensors"
    path.write_bytes(serialise(tensors, {}))
    with pytest.raises(LoraTrainError) as caught:
        read_lora(path)
    assert len(caught.value.problems) == 2
    report = inspect(path)
    assert len(report.problems) == 2 and report.blocks == {}


class _Code:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return (open, (str(self.mark), "w"))


@pytest.mark.parametrize("suffix", [".pt", ".ckpt", ".bin"])
@pytest.mark.parametrize("form", ["torch", "bare"])
def test_code_in_a_pickle_does_not_run(suffix: str, form: str, tmp_path: Path) -> None:
    mark, path = tmp_path / "ran", tmp_path / f"x{suffix}"
    content = {**lora_tensors(), "evil": _Code(mark)}
    if form == "torch":
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content))
    with pytest.raises(LoraTrainError, match="more than weights|not a checkpoint") as caught:
        read_lora(path)
    assert str(path) in str(caught.value)
    assert not mark.exists()
    # and this pickle really does run code where it is loaded without care
    if form == "torch":
        torch.load(path, weights_only=False)
    else:
        pickle.loads(path.read_bytes())
    assert mark.exists()


def test_code_in_an_old_tar_archive_does_not_run(tmp_path: Path) -> None:
    """torch's first format. Not even a harmless one is opened: it would be a checkpoint without weights."""
    mark, path = tmp_path / "ran", tmp_path / "x.pt"

    def write(content: object) -> None:
        parts = {"storages": (0, []), "tensors": (0,), "pickle": (content,)}
        with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
            for name, values in parts.items():
                data = b"".join(pickle.dumps(value, protocol=2) for value in values)
                member = tarfile.TarInfo(name)
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))

    for content in ({"evil": _Code(mark)}, {}):
        write(content)
        with pytest.raises(LoraTrainError, match="more than weights"):
            read_lora(path)
    assert not mark.exists()


def test_weights_in_a_pickle_are_read(tmp_path: Path) -> None:
    torch.save({"state_dict": lora_tensors()}, tmp_path / "x.pt")
    assert read_lora(tmp_path / "x.pt").tensors.keys() == lora_tensors().keys()


def test_a_zip_that_is_no_checkpoint(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.pt", "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}.")
    with pytest.raises(LoraTrainError):
        read_lora(tmp_path / "x.pt")


def test_peft_folders_without_sense(tmp_path: Path) -> None:
    with pytest.raises(LoraTrainError, match="no LoRA in this folder"):
        read_lora(tmp_path)
    peft = {"base_model.model.mid_block.attentions.0.proj_in.lora_A.weight": torch.ones(4, 8)}
    peft["base_model.model.mid_block.attentions.0.proj_in.lora_B.weight"] = torch.ones(8, 4)
    (tmp_path / "adapter_model.safetensors").write_bytes(serialise(peft, {}))
    for config, message in (
        ("{", "not JSON"),
        ('{"lora_alpha": "much"}', "not a number"),
        ('{"lora_alpha": 1, "alpha_pattern": {"(a+)+$": 2}}', "regular expression"),
    ):
        (tmp_path / "adapter_config.json").write_text(config)
        with pytest.raises(LoraTrainError, match=message):
            read_lora(tmp_path)


def test_2000_random_corruptions_raise_nothing_else(tmp_path: Path) -> None:
    rng = random.Random(0)
    path = tmp_path / "x.safetensors"
    pickled = tmp_path / "x.pt"
    torch.save(lora_tensors(), pickled)
    seeds = ((path, GOOD), (path, GOOD), (path, GOOD), (pickled, pickled.read_bytes()))
    header = 8 + struct.unpack("<Q", GOOD[:8])[0]
    outcomes = {"read": 0, "refused": 0}
    for number in range(2000):
        file, content = seeds[number % len(seeds)]
        data = bytearray(content)
        for _ in range(rng.choice((1, 1, 2, 8))):
            reach = header if file is path and rng.random() < 0.8 else len(data)
            _damage(data, min(reach, len(data)), rng)
        file.write_bytes(data)
        try:
            inspect(file)
            read_lora(file)
            outcomes["read"] += 1
        except LoraTrainError as error:
            assert str(file) in str(error)
            outcomes["refused"] += 1
    assert outcomes["refused"] > 500 and outcomes["read"] > 50, outcomes


def _damage(data: bytearray, reach: int, rng: random.Random) -> None:
    """Change, cut, repeat or insert some bytes among the first `reach`."""
    if not reach:
        return
    at = rng.randrange(reach)
    way = rng.randrange(5)
    if way == 0:
        data[at] = rng.randrange(256)
    elif way == 1:
        data[at] ^= 1 << rng.randrange(8)
    elif way == 2:
        del data[at : at + rng.randrange(1, 20)]
    elif way == 3:
        data[at:at] = data[at : at + rng.randrange(1, 40)]
    elif data[at : at + 1].isdigit():
        data[at : at + 1] = rng.choice((b"9", b"0", b"-1", b"1e9", b"99999999999"))
    else:
        data[at] = rng.choice(b'{}[]",:0\\')

"""A WD14-style tagger, made tiny here: it says how blue, green and red a picture is."""

from __future__ import annotations

import struct
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lora_train.captions.captioners import onnx_tagger
from lora_train.captions.captioners.onnx_tagger import onnx_tags, prepare
from lora_train.captions.captioners.registry import CaptionerOptions, captions
from lora_train.errors import LoraTrainError

TABLE = "tag_id,name,category,count\n0,blue_one,0,9\n1,green_(hero),4,5\n2,red_one,0,1\n"


def _field(number: int, value: int | bytes) -> bytes:
    """One field of a protobuf message."""
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    return _varint(number << 3 | 2) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out, value = out + bytes([value & 127 | 128]), value >> 7
    return out + bytes([value])


def _tensor(name: str, shape: list[int | str]) -> bytes:
    dims = [_field(2, side.encode()) if isinstance(side, str) else _field(1, side) for side in shape]
    kind = _field(1, 1) + _field(2, b"".join(_field(1, dim) for dim in dims))
    return _field(1, name.encode()) + _field(2, _field(1, kind))


def _onnx(shape: list[int | str]) -> bytes:
    """The mean over height and width, divided by 255, as an ONNX file."""
    axes = _field(1, b"axes") + _field(8, 1) + _field(8, 2) + _field(20, 7)
    keep = _field(1, b"keepdims") + _field(3, 0) + _field(20, 2)
    mean = _field(1, b"x") + _field(2, b"m") + _field(4, b"ReduceMean") + _field(5, axes) + _field(5, keep)
    scale = _field(1, b"m") + _field(1, b"s") + _field(2, b"y") + _field(4, b"Mul")
    number = _field(2, 1) + _field(8, b"s") + _field(9, struct.pack("<f", 1 / 255))
    graph = _field(1, mean) + _field(1, scale) + _field(2, b"g") + _field(5, number)
    graph += _field(11, _tensor("x", shape)) + _field(12, _tensor("y", [shape[0], 3]))
    return _field(1, 7) + _field(7, graph) + _field(8, _field(1, b"") + _field(2, 13))


def _stand_in(shape: list[int | str]) -> Any:
    """onnxruntime for machines without it: the same mean."""

    class Session:
        def __init__(self, path: str, providers: list[str]) -> None:
            Path(path).read_bytes()

        def get_inputs(self) -> list[SimpleNamespace]:
            return [SimpleNamespace(name="x", shape=shape)]

        def run(self, _: None, given: dict[str, np.ndarray]) -> list[np.ndarray]:
            pixels = given["x"]
            assert pixels.dtype == np.float32
            assert isinstance(shape[0], str) or len(pixels) == shape[0]
            return [pixels.mean(axis=(1, 2)) / 255]

    return SimpleNamespace(InferenceSession=Session, get_available_providers=lambda: ["CPUExecutionProvider"])


Make = Callable[..., Path]


@pytest.fixture(params=["stand-in", "onnxruntime"])
def make(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """Writes a tagger into a folder and returns the folder."""

    def write(table: str = TABLE, shape: list[int | str] | None = None) -> Path:
        shape = shape or ["N", 16, 16, 3]
        if request.param == "onnxruntime":
            pytest.importorskip("onnxruntime")
        else:
            monkeypatch.setitem(sys.modules, "onnxruntime", _stand_in(shape))
        (tmp_path / "model.onnx").write_bytes(_onnx(shape))
        (tmp_path / "selected_tags.csv").write_text(table, encoding="utf-8")
        return tmp_path

    return write


def test_preparation_is_smilingwolfs() -> None:
    pixels = prepare(Image.new("RGB", (20, 10), (10, 20, 30)), 20)
    assert pixels.shape == (20, 20, 3) and pixels.dtype == np.float32
    assert (pixels[5:15] == (30, 20, 10)).all()
    assert (pixels[:5] == 255).all() and (pixels[15:] == 255).all()
    assert prepare(Image.new("L", (3, 500)), 16).shape == (16, 16, 3)


def test_characters_lead_then_the_likeliest(make: Make) -> None:
    pictures = [Image.new("RGB", (16, 16), colour) for colour in ((250, 0, 128), (255, 255, 0), (0, 0, 0))]
    told = ["red_one, blue_one", "green_(hero), red_one", ""]
    folder = make()
    assert list(onnx_tags(str(folder), pictures)) == told
    assert list(onnx_tags(str(folder / "model.onnx"), iter(pictures), device="cuda")) == told
    options = CaptionerOptions(model=str(folder), general=0.9, character=1.0)
    assert list(captions("wd14", options, pictures)) == ["red_one", "red_one", ""]


def test_a_fixed_batch_is_filled_up(make: Make) -> None:
    pictures = [Image.new("RGB", (9, 9), (255, 0, 0))] * 3
    assert list(onnx_tags(str(make(shape=[2, 16, 16, 3])), pictures)) == ["red_one"] * 3


@pytest.mark.parametrize(
    ("table", "told"),
    [
        ("tag_id,name,category,count\n0,a,0,1\n", "has 3 outputs, selected_tags.csv names 1"),
        ("a,b\n1,2\n", "not a tagger's table"),
        ("name,category\nx\n", "not a tagger's table"),
        ("", "not a tagger's table"),
    ],
)
def test_a_table_that_does_not_fit(make: Make, table: str, told: str) -> None:
    with pytest.raises(LoraTrainError, match=told):
        list(onnx_tags(str(make(table)), [Image.new("RGB", (8, 8))]))


@pytest.mark.parametrize("shape", [["N", 3, 16, 16], ["N", 16, 32, 3], ["N", "H", "H", 3]])
def test_a_model_of_another_kind(make: Make, shape: list[int | str]) -> None:
    with pytest.raises(LoraTrainError, match="not a WD14-style tagger"):
        list(onnx_tags(str(make(shape=shape)), [Image.new("RGB", (8, 8))]))


def test_files_that_are_missing_or_damaged(make: Make) -> None:
    folder = make()
    if hasattr(sys.modules.get("onnxruntime"), "__version__"):
        (folder / "model.onnx").write_bytes(b"no model")
        with pytest.raises(LoraTrainError, match="cannot be loaded"):
            list(onnx_tags(str(folder), []))
    (folder / "model.onnx").unlink()
    with pytest.raises(LoraTrainError, match="cannot be loaded"):
        list(onnx_tags(str(folder), []))
    (folder / "selected_tags.csv").write_bytes(b"\xff\xfe")
    with pytest.raises(LoraTrainError, match="not a tagger's table"):
        list(onnx_tags(str(folder), []))
    (folder / "selected_tags.csv").unlink()
    with pytest.raises(LoraTrainError, match="cannot read the tagger's table"):
        list(onnx_tags(str(folder), []))


def test_without_onnxruntime(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(LoraTrainError, match="pip install onnxruntime"):
        list(onnx_tags("x", []))
    assert "onnxruntime" not in vars(onnx_tagger)

"""Checkpoints whose pickles hold more than weights: the weights are read, and nothing else is done."""

from __future__ import annotations

import builtins
import collections
import io
import os
import random
import sys
import types
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from lora_train.errors import LoraTrainError
from lora_train.pickled import PickledFile, StandIn, weights_in
from lora_train.tensors import read_shapes, read_tensors


def tensors() -> dict[str, torch.Tensor]:
    """Of several dtypes and forms; two share their memory."""
    torch.manual_seed(0)
    whole = torch.randn(4, 6)
    return {
        "a": whole,
        "rows": whole[1:3],
        "turned": whole.t(),
        "half": torch.randn(2, 3, 3, 3).half(),
        "bf16": torch.randn(5).bfloat16(),
        "fp8": torch.randn(8, 8).to(torch.float8_e4m3fn),
        "numbers": torch.arange(7)[None],
        "yes": torch.tensor([True, False]),
        "scalar": torch.tensor(4.6),
        "empty": torch.tensor([]),
        "parameter": torch.nn.Parameter(torch.randn(3)),
    }


def lightning_module() -> Any:
    """A class by the name of pytorch_lightning's, for the time of a `torch.save`."""
    module = types.ModuleType("pytorch_lightning.callbacks.model_checkpoint")

    class ModelCheckpoint:
        def __init__(self) -> None:
            self.best = torch.tensor(1.0)

    ModelCheckpoint.__module__, ModelCheckpoint.__qualname__ = module.__name__, "ModelCheckpoint"
    module.ModelCheckpoint = ModelCheckpoint  # type: ignore[attr-defined]
    return module


def save_as_lightning(weights: dict[str, Any], path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As SD 1.4 was published: the callback's class is a key."""
    module = lightning_module()
    with monkeypatch.context() as patch:
        for name in ("pytorch_lightning", "pytorch_lightning.callbacks"):
            patch.setitem(sys.modules, name, types.ModuleType(name))
        patch.setitem(sys.modules, module.__name__, module)
        weights = collections.OrderedDict(weights)
        weights._metadata = collections.OrderedDict(version=1)  # type: ignore[attr-defined]
        content = {
            "epoch": 0,
            "pytorch-lightning_version": "1.4.2",
            "state_dict": weights,
            "callbacks": {module.ModelCheckpoint: {"best_model_score": None, "state": module.ModelCheckpoint()}},
            "optimizer_states": [{"state": {0: {"exp_avg": torch.ones(3)}}}],
            "seen": {1, 2},
        }
        torch.save(content, path)


def test_weights_beside_a_callback_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "v1-4.ckpt"
    save_as_lightning(tensors(), path, monkeypatch)
    with pytest.raises(LoraTrainError, match="more than weights"):
        read_tensors(path)  # a LoRA has no reason to be like that
    read = read_tensors(path, stand_ins=True)
    assert read.keys() == tensors().keys()
    for name, value in tensors().items():
        assert read[name].dtype == value.dtype and read[name].shape == value.shape, name
        assert torch.equal(read[name].float(), value.float()), name
    shapes, foreign = read_shapes(path)
    assert shapes == {name: tuple(value.shape) for name, value in tensors().items()}
    assert foreign == ("pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint",)


@pytest.mark.parametrize("nest", [("state_dict", "state_dict"), ("model",), ("module", "state_dict"), ()])
def test_weights_are_found_under_trainers_names(nest: tuple[str, ...], tmp_path: Path) -> None:
    content: Any = tensors()
    for name in nest:
        content = {name: content, "epoch": 3}
    torch.save(content, tmp_path / "x.ckpt")
    assert read_tensors(tmp_path / "x.ckpt", stand_ins=True).keys() == tensors().keys()
    assert read_tensors(tmp_path / "x.ckpt").keys() == tensors().keys()


class Call:
    """Pickled as a call of `function`."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.function, self.arguments


def evil(mark: Path) -> dict[str, Any]:
    """What would leave `mark` behind where it is unpickled without care."""
    return {
        "a call": Call(open, str(mark), "w"),
        "a system call": Call(os.mkdir, str(mark)),
        "eval": Call(eval, f"__import__('os').mkdir({str(mark)!r})"),
        "an import": Call(exec, f"import os; os.mkdir({str(mark)!r})"),
    }


def _raw(path: Path, data: bytes) -> None:
    """Weights in an archive of torch's, with `data` in place of the pickle."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/data.pkl", data)
        archive.writestr("x/version", "3\n")


@pytest.mark.parametrize("kind", ["a call", "a system call", "eval", "an import"])
def test_code_beside_weights_does_not_run(kind: str, tmp_path: Path) -> None:
    path, mark = tmp_path / "evil.ckpt", tmp_path / "ran"
    torch.save({"state_dict": {"a": torch.ones(3)}, "callbacks": evil(mark)[kind]}, path)
    assert read_tensors(path, stand_ins=True)["a"].tolist() == [1, 1, 1]
    _, foreign = read_shapes(path)
    assert len(foreign) == 1, "named, so that it can be said"
    assert not mark.exists()
    torch.load(path, weights_only=False)
    assert mark.exists(), "it does run elsewhere"


def test_code_among_the_weights_does_not_run(tmp_path: Path) -> None:
    path, mark = tmp_path / "evil.ckpt", tmp_path / "ran"
    torch.save({"state_dict": {"a": torch.ones(3), "b": Call(open, str(mark), "w")}}, path)
    assert read_tensors(path, stand_ins=True).keys() == {"a"}
    torch.save({"state_dict": Call(open, str(mark), "w")}, path)
    with pytest.raises(LoraTrainError, match="more than weights"):
        read_tensors(path, stand_ins=True)
    assert not mark.exists()


def test_states_that_are_set_run_nothing(tmp_path: Path) -> None:
    """Opcodes by hand: states set on torch's functions, on classes and on stand-ins."""
    path, mark = tmp_path / "x.ckpt", str(tmp_path / "ran")
    rebuild, before = torch._utils._rebuild_tensor_v2, torch._utils._rebuild_tensor_v2.__defaults__
    state = f"(dVx\nVy\nsVmark\nV{mark}\ns".encode()
    for target in (
        b"ctorch._utils\n_rebuild_tensor_v2\n",
        b"ccollections\nOrderedDict\n",
        b"ctorch\nSize\n",
        b"ctorch\nfloat32\n",
        b"cos\nmkdir\n",
        b"cbuiltins\ndict\n",
        b"(ios\nmkdir\n",
        b"cfunctools\npartial\n)R",
    ):
        for build in (b"b", b"}\x86b", b"\x93", b"R", b"\x81", b"(e", b"(u", b"\x82\x01", b"Q", b"(ibuiltins\neval\n"):
            _raw(path, b"\x80\x02" + target + state + build + b".")
            try:
                PickledFile(path)
            except Exception as error:
                assert not isinstance(error, SystemExit)
            with pytest.raises(LoraTrainError):
                read_tensors(path, stand_ins=True)
    assert rebuild.__defaults__ == before and not vars(rebuild)
    assert not hasattr(StandIn, "x") and not Path(mark).exists()
    assert builtins.dict is dict


def test_a_script_is_not_compiled(tmp_path: Path) -> None:
    """torch's own loading would hand such a file to `torch.jit`."""
    path = tmp_path / "x.ckpt"
    torch.save({"a": torch.ones(2)}, path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(f"{path.stem}/constants.pkl", b"\x80\x02).")
        archive.writestr(f"{path.stem}/code/__torch__.py", "raise SystemExit")
    assert read_tensors(path, stand_ins=True)["a"].tolist() == [1, 1]


def test_a_script_does_not_reach_torchs_own_loading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A LoRA is read by it, and older torch hands scripts to `torch.jit` whatever `weights_only` says."""
    path = tmp_path / "x.pt"
    torch.save({"a": torch.ones(2)}, path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(f"{path.stem}/constants.pkl", b"\x80\x02).")
    monkeypatch.setattr(torch.serialization, "load", lambda *_, **__: {"a": torch.ones(2)})
    with pytest.raises(LoraTrainError, match="more than weights"):
        read_tensors(path)


def _with_pickle(path: Path, change: Any) -> None:
    """Replace the pickle in torch's file by what `change` makes of it."""
    with zipfile.ZipFile(path) as archive:
        parts = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in parts.items():
            archive.writestr(name, change(data) if name.endswith("data.pkl") else data)


def test_tensors_that_reach_beyond_their_values_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.ckpt"
    for old, new in ((b"K\x07", b"K\x09"), (b"K\x00K\x07", b"K\x01K\x07")):
        torch.save({"a": torch.arange(7.0)}, path)
        _with_pickle(path, lambda data, old=old, new=new: data.replace(old, new))
        with pytest.raises(LoraTrainError, match="not a checkpoint"):
            read_tensors(path, stand_ins=True)


def test_a_memory_bomb_is_not_opened(tmp_path: Path) -> None:
    """Values that unpack to more than they say, and a memo index that would take gigabytes."""
    path = tmp_path / "x.ckpt"
    torch.save({"a": torch.zeros(1000)}, path)
    with zipfile.ZipFile(path) as archive:
        parts = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in parts.items():
            archive.writestr(name, data)
    with pytest.raises(LoraTrainError):
        read_tensors(path, stand_ins=True)
    _raw(path, b"\x80\x02}r\xff\xff\xff\xff.")
    with pytest.raises(LoraTrainError):
        read_tensors(path, stand_ins=True)


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "before 1.6"])
@pytest.mark.parametrize("stand_ins", [False, True])
def test_a_terabyte_of_one_value_is_refused(stand_ins: bool, legacy: bool, tmp_path: Path) -> None:
    """A stride of 0 needs no memory until something is computed of the tensor."""
    path = tmp_path / "x.ckpt"
    torch.save({"a": torch.zeros(1).expand(1 << 20, 1 << 20)}, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(LoraTrainError, match="not a checkpoint"):
        read_tensors(path, stand_ins=stand_ins)
    with pytest.raises(LoraTrainError, match="not a checkpoint"):
        read_shapes(path)
    torch.save({"a": torch.ones(1).expand(5, 8)}, path, _use_new_zipfile_serialization=not legacy)
    assert read_tensors(path, stand_ins=stand_ins)["a"].sum() == 40


def test_weights_that_hold_themselves_have_an_end() -> None:
    content: dict[str, Any] = {"a": torch.ones(1)}
    content["state_dict"] = content
    assert weights_in(content, torch.Tensor).keys() == {"a"}
    first: dict[str, Any] = {}
    first["state_dict"] = {"model": first}
    assert weights_in(first, torch.Tensor) == {}


def test_random_corruptions_raise_nothing_else(tmp_path: Path) -> None:
    path, rng = tmp_path / "x.ckpt", random.Random(0)
    buffer = io.BytesIO()
    torch.save({"state_dict": tensors()}, buffer)
    whole, read = buffer.getvalue(), 0
    for _ in range(400):
        data = bytearray(whole)
        for _ in range(rng.choice((1, 2, 8))):
            data[rng.randrange(len(data))] = rng.randrange(256)
        path.write_bytes(data)
        try:
            read_tensors(path, stand_ins=True)
            read += 1
        except LoraTrainError as error:
            assert str(path) in str(error)
    assert 20 < read < 400

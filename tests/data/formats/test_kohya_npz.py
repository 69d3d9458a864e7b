from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lora_train.data.formats import kohya_npz
from lora_train.data.formats.kohya_npz import KohyaLatents, npz_path, read_npz, resolutions, write_npz
from lora_train.errors import LoraTrainError


def _entry(width: int = 8, height: int = 6, **more: np.ndarray) -> KohyaLatents:
    latents = np.random.default_rng(width).normal(size=(4, height, width)).astype(np.float32)
    return KohyaLatents(latents, (640, 480), (0, 0, width * 8, height * 8), **more)


def _same(a: KohyaLatents, b: KohyaLatents) -> bool:
    def equal(x: np.ndarray | None, y: np.ndarray | None) -> bool:
        return (x is None) == (y is None) and (x is None or y is None or np.array_equal(x, y))

    arrays = equal(a.latents, b.latents) and equal(a.flipped, b.flipped) and equal(a.alpha_mask, b.alpha_mask)
    return arrays and a.original_size == b.original_size and a.crop_ltrb == b.crop_ltrb


def test_the_names_are_kohyas(tmp_path: Path) -> None:
    assert npz_path(tmp_path / "a.b.png", (640, 48), "sd1").name == "a.b_0640x0048_sd.npz"
    assert npz_path(tmp_path / "a.png", (640, 480), "sdxl").name == "a_0640x0480_sdxl.npz"
    (tmp_path / "a.npz").touch()
    assert npz_path(tmp_path / "a.png", (640, 480), "sdxl").name == "a.npz"
    with pytest.raises(LoraTrainError, match="not supported for 'flux'"):
        npz_path(tmp_path / "b.png", (8, 8), "flux")


def test_plain_keys(tmp_path: Path) -> None:
    file = tmp_path / "a.npz"
    entry = _entry(flipped=np.ones((4, 6, 8), np.float32), alpha_mask=np.zeros((48, 64), np.float32))
    write_npz(file, entry)
    with np.load(file) as raw:
        assert set(raw) == {"latents", "original_size", "crop_ltrb", "latents_flipped", "alpha_mask"}
        assert raw["latents"].dtype == np.float32 and raw["original_size"].tolist() == [640, 480]
    assert resolutions(file) == [None]
    assert _same(read_npz(file), entry) and _same(read_npz(file, (8, 6)), entry)
    with pytest.raises(LoraTrainError, match="not latents of this size"):
        read_npz(file, (6, 8))
    write_npz(file, _entry())
    assert read_npz(file).flipped is None  # not that of the latents before


def test_keys_per_resolution(tmp_path: Path) -> None:
    file = tmp_path / "a.npz"
    write_npz(file, _entry(8, 6), multi_resolution=True)
    assert _same(read_npz(file), _entry(8, 6))
    write_npz(file, _entry(4, 10), multi_resolution=True)
    with np.load(file) as raw:
        assert {"latents_6x8", "original_size_6x8", "crop_ltrb_10x4"} <= set(raw)
    assert resolutions(file) == [(8, 6), (4, 10)]
    assert _same(read_npz(file, (4, 10)), _entry(4, 10)) and _same(read_npz(file, (8, 6)), _entry(8, 6))
    for size in (None, (3, 3)):
        with pytest.raises(LoraTrainError, match="other sizes.*8x6, 4x10"):
            read_npz(file, size)


@pytest.mark.parametrize(
    "arrays",
    [
        {},
        {"latents": np.zeros((4, 6, 8))},
        {"latents": np.zeros((6, 8)), "original_size": [1, 2], "crop_ltrb": [0, 0, 1, 1]},
        {"latents": np.zeros((4, 6, 8)), "original_size": [1], "crop_ltrb": [0, 0, 1, 1]},
        {"latents": np.zeros((4, 6, 8)), "original_size": [1, 2], "crop_ltrb": [0, 0]},
        {"latents": np.full((4, 6, 8), np.nan), "original_size": [1, 2], "crop_ltrb": [0, 0, 1, 1]},
        {"latents": np.full((4, 6, 8), "x"), "original_size": [1, 2], "crop_ltrb": [0, 0, 1, 1]},
        {"latents": np.zeros((4, 6, 8)), "original_size": [np.inf, 2], "crop_ltrb": [0, 0, 1, 1]},
        {"latents": np.zeros((4, 6, 8)), "latents_flipped": np.zeros(3), "original_size": [1, 2], "crop_ltrb": [0] * 4},
    ],
)
def test_other_arrays_are_refused(tmp_path: Path, arrays: dict[str, np.ndarray]) -> None:
    np.savez(tmp_path / "a.npz", **arrays)  # type: ignore[arg-type]
    with pytest.raises(LoraTrainError):
        read_npz(tmp_path / "a.npz")


def test_pickles_and_bombs_are_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a.npz"
    np.savez(file, latents=np.array([print], dtype=object), original_size=[1, 2], crop_ltrb=[0] * 4)
    with pytest.raises(LoraTrainError, match="allow_pickle"):
        read_npz(file)
    write_npz(tmp_path / "b.npz", _entry())
    monkeypatch.setattr(kohya_npz, "MAX_ARRAY", 100)
    with pytest.raises(LoraTrainError, match="too large"):
        read_npz(tmp_path / "b.npz")
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (1 << 50,)})
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("latents.npy", header.getvalue())
    monkeypatch.undo()
    with pytest.raises(LoraTrainError, match="not a cache of latents"):
        read_npz(file)


def test_files_that_are_none(tmp_path: Path) -> None:
    file = tmp_path / "a.npz"
    with pytest.raises(LoraTrainError, match="cannot read"):
        read_npz(file)
    file.write_bytes(b"no zip")
    with pytest.raises(LoraTrainError, match="not a cache"):
        read_npz(file)
    with pytest.raises(LoraTrainError, match="not a cache"):
        write_npz(file, _entry())
    assert file.read_bytes() == b"no zip"


@settings(max_examples=80)
@given(st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=8), st.integers(0, 10_000))
def test_a_damaged_file_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[int, int]], end: int
) -> None:
    file = tmp_path_factory.getbasetemp() / "fuzz.npz"
    file.unlink(missing_ok=True)
    write_npz(file, _entry())
    data = bytearray(file.read_bytes())
    for position, value in changes:
        data[position % len(data)] = value
    file.write_bytes(bytes(data[: max(1, end)]))
    try:
        found = read_npz(file)
    except LoraTrainError as error:
        assert str(file) in str(error) and error.problems[0].what
        return
    assert found.latents.dtype == np.float32 and np.isfinite(found.latents).all() and found.latents.ndim == 3
    assert found.flipped is None or found.flipped.shape == found.latents.shape
    assert len(found.original_size) == 2 and len(found.crop_ltrb) == 4

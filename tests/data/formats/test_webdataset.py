from __future__ import annotations

import gzip
import io
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lora_train.data.formats import webdataset
from lora_train.data.formats.webdataset import Sample, read_shards
from lora_train.data.scan import Rejected
from lora_train.errors import LoraTrainError

Member = tuple[str, bytes]


def _tar(path: Path, *members: Member | tarfile.TarInfo) -> Path:
    with tarfile.open(path, "w") as tar:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                tar.addfile(member)
                continue
            info = tarfile.TarInfo(member[0])
            info.size = len(member[1])
            tar.addfile(info, io.BytesIO(member[1]))
    return path


def _special(name: str, kind: bytes) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, "/etc/passwd"
    return info


def _read(*shards: Path) -> tuple[list[Sample], list[Rejected]]:
    found = list(read_shards(shards))
    return [f for f in found if isinstance(f, Sample)], [f for f in found if isinstance(f, Rejected)]


def test_members_of_a_stem_are_one_sample(tmp_path: Path) -> None:
    first = _tar(
        tmp_path / "0.tar",
        ("000.png", b"p0"),
        ("000.txt", "\ufefftext\n é".encode()),
        ("000.json", b'{"caption": "not this"}'),
        ("001.json", b'{"prompt": "from  json", "text": 3}'),
        ("001.seg.JPG", b"p1"),
        _special("sub", tarfile.DIRTYPE),
        ("sub/000.webp", b"p2"),
        ("sub/000.caption", b"c2"),
    )
    second = _tar(tmp_path / "1.tar", ("000.png", b"p3"), ("000.json", b"[broken"))
    samples, rejected = _read(first, second)
    assert [(s.shard.name, s.key, s.extension, s.data, s.caption) for s in samples] == [
        ("0.tar", "000", ".png", b"p0", "text\né"),
        ("0.tar", "001", ".seg.jpg", b"p1", "from json"),
        ("0.tar", "sub/000", ".webp", b"p2", "c2"),
        ("1.tar", "000", ".png", b"p3", None),
    ]
    assert not rejected


def test_hostile_members_are_passed_over_with_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webdataset, "MAX_PICTURE", 100)
    monkeypatch.setattr(webdataset, "MAX_TEXT", 10)
    shard = _tar(
        tmp_path / "0.tar",
        ("/etc/x.png", b"x"),
        ("../x.png", b"x"),
        ("a/../../x.png", b"x"),
        ("C:\\x.png", b"x"),
        ("..\\x.png", b"x"),
        _special("link.png", tarfile.SYMTYPE),
        _special("hard.png", tarfile.LNKTYPE),
        _special("device.png", tarfile.CHRTYPE),
        _special("pipe.png", tarfile.FIFOTYPE),
        ("huge.png", b"x" * 101),
        ("long.png", b"x"),
        ("long.txt", b"x" * 11),
        ("script.py", b"x"),
        ("two.png", b"x"),
        ("two.jpg", b"x"),
        ("alone.txt", b"x"),
        ("good.png", b"good"),
    )
    samples, rejected = _read(shard)
    assert [s.key for s in samples] == ["long", "two", "good"] and samples[0].caption is None
    reasons = {r.path.relative_to(shard).as_posix(): r.reason for r in rejected}
    assert len(reasons) == 14
    assert reasons["etc/x.png"] == reasons["../x.png"] == "its name leads out of the shard"
    assert reasons["link.png"] == reasons["device.png"] == "it is not a regular file"
    assert reasons["huge.png"] == "it is too large (101 bytes)"
    assert "not used (.py)" in reasons["script.py"]
    assert reasons["alone"] == "there is no picture in this sample"


def test_a_sparse_member_is_no_plain_file(tmp_path: Path) -> None:
    """A few bytes that say they are a terabyte."""
    info = tarfile.TarInfo("a.png")
    info.type = tarfile.GNUTYPE_SPARSE
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[483:495] = b"\x80" + (1 << 40).to_bytes(11, "big")
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    (tmp_path / "0.tar").write_bytes(bytes(header) + bytes(1024))
    samples, rejected = _read(tmp_path / "0.tar")
    assert not samples and [r.reason for r in rejected] == ["it is not a regular file"]


def test_a_negative_size_does_not_run_in_a_circle(tmp_path: Path) -> None:
    info = tarfile.TarInfo("a.png")
    info.pax_headers = {"size": "-1024"}
    (tmp_path / "0.tar").write_bytes(info.tobuf(tarfile.PAX_FORMAT) + bytes(1024))
    with pytest.raises(LoraTrainError):
        list(read_shards([tmp_path / "0.tar"]))


@pytest.mark.parametrize("end", [3000, 3200, 3500])
def test_samples_before_the_damage_are_kept(tmp_path: Path, end: int) -> None:
    whole = _tar(tmp_path / "0.tar", ("a.png", b"a" * 600), ("b.png", b"b" * 600), ("c.png", b"c" * 600)).read_bytes()
    (tmp_path / "0.tar").write_bytes(whole[:end])
    stream = read_shards([tmp_path / "0.tar"])
    assert isinstance(first := next(stream), Sample) and first.data == b"a" * 600
    with pytest.raises(LoraTrainError, match="damaged"):
        list(stream)


def test_a_damaged_header_in_the_middle_is_told(tmp_path: Path) -> None:
    data = bytearray(_tar(tmp_path / "0.tar", ("a.png", b"a"), ("b.png", b"b"), ("c.png", b"c")).read_bytes())
    data[1024 + 150] ^= 1
    (tmp_path / "0.tar").write_bytes(data)
    with pytest.raises(LoraTrainError, match="is cut off in the middle"):
        list(read_shards([tmp_path / "0.tar"]))


@pytest.mark.parametrize("data", [b"", b"no tar", gzip.compress(b"x" * 2000, mtime=0), b"\0" * 100])
def test_other_files_are_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "0.tar").write_bytes(data)
    with pytest.raises(LoraTrainError, match="not an uncompressed tar"):
        list(read_shards([tmp_path / "0.tar"]))
    with pytest.raises(LoraTrainError, match="cannot read"):
        list(read_shards([tmp_path / "nowhere.tar"]))


@settings(max_examples=150)
@given(st.lists(st.tuples(st.integers(0, 2047), st.integers(0, 255)), max_size=12), st.integers(0, 5000))
def test_a_damaged_shard_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[int, int]], end: int
) -> None:
    shard = tmp_path_factory.getbasetemp() / "fuzz.tar"
    data = bytearray(_tar(shard, ("a.png", b"a"), ("é" * 80 + ".txt", b"b")).read_bytes())
    for position, value in changes:
        data[position] = value
    shard.write_bytes(bytes(data[:end]))
    found: list[Sample | Rejected] = []
    try:
        found.extend(read_shards([shard]))
    except LoraTrainError as error:
        assert str(shard) in str(error) and error.problems[0].what
    else:
        assert data[:512].strip(b"\0") == b"" or found or end < 512, "nothing was said of what is there"
    for one in found:
        str(one).encode()
        if isinstance(one, Sample):
            assert ".." not in Path(one.key).parts and not Path(one.key).is_absolute() and one.extension
        else:
            assert one.reason

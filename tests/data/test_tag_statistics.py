from __future__ import annotations

import json
from pathlib import Path

import pytest

from lora_train.data import tag_statistics
from lora_train.data.scan import Manifest, Picture, scan
from lora_train.data.tag_statistics import tag_frequency, tag_note
from tests.conftest import draw_pictures


def test_tag_frequency_is_kohyas(tmp_path: Path) -> None:
    draw_pictures(tmp_path / "2_x", 2)
    manifest = scan(tmp_path)
    assert tag_frequency(manifest) == {"2_x": {"sks on colour 0": 1, "sks on colour 1": 1}}
    assert tag_note(manifest) == ""


def test_of_too_many_tags_the_most_frequent_are_kept_and_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tag_statistics, "MOST", 2000)
    captions = [
        f"sks, {'hat, ' if number < 5 else ''}" + ", ".join(f'"{number}" {n}\\\\é' for n in range(40))
        for number in range(9)
    ]
    pictures = [Picture(Path(f"{n % 2}_x/{n}.png"), 1, 1, caption, "x", 1) for n, caption in enumerate(captions)]
    manifest = Manifest(Path(), pictures)
    kept = tag_frequency(manifest)
    assert kept["0_x"]["sks"] == 5 and kept["1_x"]["sks"] == 4 and kept["0_x"]["hat"] == 3
    in_header = json.dumps({"ss_tag_frequency": json.dumps(kept, ensure_ascii=False)}, ensure_ascii=False).encode()
    assert 1000 < len(in_header) <= 2100
    count = sum(map(len, kept.values()))
    assert tag_note(manifest).startswith("The captions have 364 different tags")
    assert f"will hold the {count} most frequent" in tag_note(manifest)

"""The card beside a LoRA."""

from __future__ import annotations

import json
from pathlib import Path

from lora_train.lorafile.sidecar import write_preview, write_sidecar


def test_a_persons_words_stay(tmp_path: Path) -> None:
    lora = tmp_path / "a.b.safetensors"
    path = write_sidecar(lora, "sks", "sd_v1", "made")
    assert path == tmp_path / "a.b.json"
    assert json.loads(path.read_text()) == {
        "activation text": "sks",
        "preferred weight": 1.0,
        "sd version": "SD1",
        "notes": "made",
    }
    path.write_text(json.dumps({"notes": "mine", "preferred weight": 0, "activation text": "", "extra": [1]}))
    write_sidecar(lora, "sks", "sdxl_base_v1-0", "made again")
    told = json.loads(path.read_text())
    assert told["notes"] == "mine" and told["extra"] == [1]
    assert told["activation text"] == "sks" and told["preferred weight"] == 1.0 and told["sd version"] == "SDXL"


def test_damaged_cards_are_written_anew(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{")
    write_sidecar(tmp_path / "a.safetensors", "t", "other", "n")
    assert json.loads((tmp_path / "a.json").read_text())["sd version"] == "Unknown"
    assert write_preview(tmp_path / "a.safetensors", b"png").name == "a.preview.png"

"""The card beside a LoRA."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from lora_train.errors import LoraTrainError
from lora_train.lorafile.sidecar import RECORD, activation_text, notes_of, write_preview, write_sidecar

PERSON = {"activation text": "zoë", "preferred weight": 0.7, "negative text": "bad", "mine": [1, {"a": None}]}


def written(folder: Path, tag: str = "sks", base: str = "sd_v1", notes: str = "made") -> tuple[dict[str, Any], str]:
    """The card as it is after writing, and what was said."""
    said: list[str] = []
    path = write_sidecar(folder / "a.safetensors", tag, base, notes, said.append)
    card = json.loads(path.read_text(encoding="utf-8"))
    card.pop(RECORD)
    return card, "\n".join(said)


def test_a_persons_words_stay(tmp_path: Path) -> None:
    lora = tmp_path / "a.b.safetensors"
    path = write_sidecar(lora, "sks", "sd_v1", "made")
    assert path == tmp_path / "a.b.json"
    ours = {"activation text": "sks", "preferred weight": 1.0, "sd version": "SD1", "notes": "made"}
    assert json.loads(path.read_text()) == ours | {RECORD: ours}
    path.write_text(json.dumps({"notes": "mine", "preferred weight": 0, "activation text": "", "extra": [1]}))
    write_sidecar(lora, "sks", "sdxl_base_v1-0", "made again")
    told = json.loads(path.read_text())
    assert told["notes"] == "mine" and told["extra"] == [1]
    assert told["activation text"] == "sks" and told["preferred weight"] == 1.0 and told["sd version"] == "SDXL"


def test_what_we_wrote_is_renewed_and_what_was_changed_since_stays(tmp_path: Path) -> None:
    written(tmp_path, "old", notes=notes_of(4, 47))
    card, said = written(tmp_path, "new", "sdxl_base_v1-0", notes_of(4, 700))
    assert card == {
        "activation text": "new",
        "preferred weight": 1.0,
        "sd version": "SDXL",
        "notes": notes_of(4, 700),
    }
    assert not said
    path = tmp_path / "a.json"
    changed = json.loads(path.read_text()) | {"preferred weight": 0.6, "activation text": "", "description": "d"}
    changed["notes"] += "\nBest at 0.6."
    path.write_text(json.dumps(changed))
    for tag in ("newer", "newest"):  # an emptied text was emptied by somebody, and stays so every time
        card, said = written(tmp_path, tag, "sdxl_base_v1-0", notes_of(5, 9))
        assert card["preferred weight"] == 0.6 and card["activation text"] == "" and card["description"] == "d"
        assert card["notes"] == notes_of(5, 9) + "\nBest at 0.6."
        assert f"keeps its activation text ''; this training's is '{tag}'" in said


def test_a_card_without_our_record_is_renewed_by_the_sentence_that_is_ours(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps({"activation text": "theirs", "notes": notes_of(4, 47)}))
    card, said = written(tmp_path, "ours", notes=notes_of(4, 700))
    assert card["notes"] == notes_of(4, 700) and card["activation text"] == "theirs"
    assert "'theirs'" in said and "'ours'" in said


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_every_unicode_is_read_and_becomes_plain(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "a.json").write_bytes(json.dumps(PERSON, ensure_ascii=False).encode(encoding))
    card, said = written(tmp_path)
    assert {key: card[key] for key in PERSON} == PERSON
    assert "UTF-8 now" in said and not list(tmp_path.glob("*.bak*"))


@pytest.mark.parametrize(
    ("content", "kept"),
    [
        (json.dumps(PERSON, ensure_ascii=False).encode("cp1252"), PERSON),
        (
            '{"activation text": "zoë", "preferred weight": 0.7, "notes": "half'.encode(),
            {"preferred weight": 0.7},
        ),
        (b'{"negative text": "bad", "preferred weight": 0.', {"negative text": "bad", "preferred weight": 1.0}),
        ('{"activation text": "zoë", "negative text": "bad'.encode()[:-3], {"activation text": "zoë"}),
        ('{"activation text": "zo\u00eb'.encode()[:-1], {"activation text": "sks"}),
        (json.dumps(PERSON).encode("utf-16")[:-7], {"activation text": "zoë", "negative text": "bad"}),
        (b'{"negative text": "bad", "mine": 1,}', {"negative text": "bad", "mine": 1}),
        (b'{"mine": 1, "mine": 2}', {"mine": 2}),
        (b'[{"negative text": "bad"}]', {"negative text": "bad"}),
        (b'["activation text"]', {"activation text": "sks"}),
        (b"null", {"activation text": "sks"}),
        (b"\0" * 64, {"activation text": "sks"}),
        (b"[" * 100_000, {"activation text": "sks"}),
        (b"<html>{oops}</html>", {"activation text": "sks"}),
    ],
)
def test_what_cannot_be_read_for_certain_is_kept(tmp_path: Path, content: bytes, kept: dict[str, Any]) -> None:
    (tmp_path / "a.json").write_bytes(content)
    (tmp_path / "a.json.bak").write_bytes(b"an earlier one")
    card, said = written(tmp_path)
    assert {key: card[key] for key in kept} == kept
    assert (tmp_path / "a.json.bak").read_bytes() == b"an earlier one"
    assert (tmp_path / "a.json.bak2").read_bytes() == content
    assert "a.json.bak2" in said
    written(tmp_path)
    assert not (tmp_path / "a.json.bak3").exists()


def test_the_activation_text_of_any_card(tmp_path: Path) -> None:
    lora = tmp_path / "a.safetensors"
    assert activation_text(lora) == ""
    for content in (b'\xef\xbb\xbf{"activation text": "sks"}', b'{"activation text": "sks", "notes": "half'):
        lora.with_suffix(".json").write_bytes(content)
        assert activation_text(lora) == "sks"
    for content in (b'{"activation text": 3}', b"[]", b"\0"):
        lora.with_suffix(".json").write_bytes(content)
        assert activation_text(lora) == ""
    lora.with_suffix(".json").unlink()
    lora.with_suffix(".json").mkdir()
    assert activation_text(lora) == ""


def test_a_line_break_and_half_a_character_are_no_damage(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"description": "one\ntwo", "mine": "\\ud83d"}')
    card, said = written(tmp_path)
    assert card["description"] == "one\ntwo" and card["mine"] == "\ud83d"
    assert not said and not list(tmp_path.glob("*.bak*"))


def test_an_empty_card_is_filled(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("\n")
    card, said = written(tmp_path, base="other")
    assert card["sd version"] == "Unknown" and not said and not list(tmp_path.glob("*.bak*"))
    card, _ = written(tmp_path, base="sd_v2")
    assert card["sd version"] == "SD2"


def test_a_card_that_cannot_be_read_is_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "a.json").mkdir()
    with pytest.raises(LoraTrainError, match="a.json.*cannot be read"):
        written(tmp_path)
    (tmp_path / "b.json").write_bytes(b" " * 16_000_001)
    with pytest.raises(LoraTrainError, match="too large"):
        write_sidecar(tmp_path / "b.safetensors", "t", "sd_v1", "n")
    assert (tmp_path / "b.json").stat().st_size == 16_000_001


@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
def test_a_linked_card_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "cards").mkdir()
    (tmp_path / "cards" / "a.json").write_text('{"mine": 1}')
    (tmp_path / "a.json").symlink_to(tmp_path / "cards" / "a.json")
    written(tmp_path)
    assert (tmp_path / "a.json").is_symlink()
    assert json.loads((tmp_path / "cards" / "a.json").read_text())["mine"] == 1


def test_our_preview_is_renewed_and_a_persons_stays(tmp_path: Path) -> None:
    lora, said = tmp_path / "a.safetensors", list[str]()
    write_sidecar(lora, "t", "sd_v1", "n")
    for picture in (b"first", b"second"):
        path = write_preview(lora, picture, said.append)
        assert path == tmp_path / "a.preview.png" and path.read_bytes() == picture and not said
        write_sidecar(lora, "t", "sd_v1", "n")
    path.write_bytes(b"theirs")
    assert write_preview(lora, b"third", said.append) == path
    assert path.read_bytes() == b"theirs" and "a.preview.png" in said[0]


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.preview.webp"])
def test_a_picture_under_another_name_is_not_hidden(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"theirs")
    write_sidecar(tmp_path / "a.safetensors", "t", "sd_v1", "n")
    assert write_preview(tmp_path / "a.safetensors", b"png") == tmp_path / name
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["a.json", name])

"""What comes from files is shown, and does nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lora_train.cli import main
from lora_train.errors import LoraTrainError, Problem
from lora_train.lorafile.writing import serialise
from lora_train.runs.terminal import ProgressBar
from lora_train.showing import as_shown, encodable
from lora_train.ui.train_tab import problems_html
from tests.lorafile.samples import lora_tensors

EVIL = "a\x1b[31mb\x07c\x9b1md\u202egpj.exe\u2066\u200fe\x7f"
SIGNS = ("\x1b", "\x07", "\x9b", "\u202e", "\u2066", "\u200f", "\x7f")


def test_signs_that_act_are_written_out() -> None:
    assert as_shown("a\x1b[2J\u202eb\x9bc") == "a\\u001b[2J\\u202eb\\u009bc"
    assert as_shown("ü 🦊 日本 \t\n") == "ü 🦊 日本 \t\n"
    assert as_shown("a\nb\tc\rd", lines=False) == "a\\nb\\tc\\u000dd"
    assert as_shown("\ud800") == "\\ud800"


@given(st.text())
def test_whatever_is_shown_can_be_printed(text: str) -> None:
    as_shown(text).encode("utf-8")
    encodable(text).encode("utf-8")
    assert as_shown(text, lines=False).isprintable() or not text.isprintable()


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_encodable_leaves_sound_text_alone(text: str) -> None:
    assert encodable(text) == text


def _evil(folder: Path) -> Path:
    path = folder / "x\x1b[31m\u202e.safetensors"
    path.write_bytes(serialise({**lora_tensors(), f"gate{EVIL}": torch.ones(1)}, {f"k{EVIL}": f"v{EVIL}\nsecond"}))
    return path


@pytest.mark.parametrize("tool", [["inspect"], ["inspect", "--json"], ["metadata"]])
def test_no_escape_reaches_the_terminal(tool: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["file", *tool, str(_evil(tmp_path))]) == 0
    shown = capsys.readouterr()
    assert not any(sign in shown.out + shown.err for sign in SIGNS)
    if tool != ["inspect"]:
        found = json.loads(shown.out)
        metadata = found if tool == ["metadata"] else found[0]["metadata"]
        assert metadata == {f"k{EVIL}": f"v{EVIL}\nsecond"}  # JSON's own escapes: nothing is lost
    else:
        assert "\\u202egpj.exe" in shown.out and "\\nsecond" in shown.out


def test_no_escape_in_errors_and_notes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = _evil(tmp_path)
    out = str(tmp_path / "o.safetensors")
    assert main(["file", "convert", str(path), "--to", "kohya", "--output", out]) == 0
    path.write_bytes(b"no")
    assert main(["file", "inspect", str(path)]) == 2
    shown = capsys.readouterr().err
    assert "gatea\\u001b" in shown and "x\\u001b[31m\\u202e" in shown
    assert not any(sign in shown for sign in SIGNS)


def test_the_page_shows_it_as_text() -> None:
    html = problems_html([Problem(f"<b>{EVIL}</b>", f"<i>{EVIL}", f"{EVIL}")])
    assert "<b>a" not in html and "&lt;b&gt;a\\u001b" in html and not any(sign in html for sign in SIGNS)
    assert str(LoraTrainError(EVIL)) == EVIL  # what happened stays as it is


def test_a_runs_notes_in_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    import sys

    ProgressBar(sys.stderr).on_event({"kind": "note", "text": EVIL})
    assert not any(sign in capsys.readouterr().err for sign in SIGNS)

"""Lines of prompts with sd-scripts' flags, and its files of them."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_train.errors import LoraTrainError
from lora_train.prompt.lines import Line, read_line, read_prompts


def test_a_line_with_all_flags() -> None:
    line = read_line(" a red-haired woman, 1--2 --n blur, low --w 512 --h 768 --d 7 --s 12 --l 6.5 --ss Euler_A ")
    assert line == Line(
        "a red-haired woman, 1--2",
        "a red-haired woman, 1--2 --n blur, low --w 512 --h 768 --d 7 --s 12 --l 6.5 --ss Euler_A",
        "blur, low",
        *(512, 768, 7, 12, 6.5, "euler_a"),
    )
    assert read_line("a dog") == Line("a dog", "a dog")
    assert read_line("--w 64").prompt == "" and read_line("--w 64").width == 64


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a --w wide", "--w 'wide' is not a number"),
        ("a --w", "--w '' is not a number"),
        ("a --h 8", "--h 8 is out of range, 64 to 4096"),
        ("a --s 0", "--s 0 is out of range, 1 to 1000"),
        ("a --d -1", "--d -1 is out of range"),
        ("a --l nan", "--l nan is out of range"),
        ("a --ss strange", "--ss strange is not known; there are dpmsolver\\+\\+"),
    ],
)
def test_what_cannot_be_understood(text: str, said: str) -> None:
    (wrong,) = read_line(text).wrong
    assert said.replace("\\", "") in wrong


def test_what_is_not_available_is_a_note() -> None:
    assert read_line("a --cn x.png --g 3").notes == ("--cn is not available here.", "--g is not available here.")


def test_files_of_prompts(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("# a remark\n\n a dog --w 512\na cat\n", encoding="utf-8-sig")
    assert [(line.prompt, line.width) for line in read_prompts(path)] == [("a dog", 512), ("a cat", None)]
    path = tmp_path / "a.json"
    path.write_text(
        '["a dog --s 3", {"prompt": "a cat --n stays", "negative_prompt": "blur", "width": 512, "height": 640,'
        ' "seed": 3, "sample_steps": 9, "scale": 5, "sample_sampler": "ddim", "controlnet_image": "x", "enum": 1}]',
        encoding="utf-8",
    )
    dog, cat = read_prompts(path)
    assert dog.steps == 3
    assert cat == Line(
        *("a cat --n stays", "a cat --n stays", "blur", 512, 640, 3, 9, 5.0, "ddim"),
        notes=("controlnet_image is not available here.",),
    )


@pytest.mark.skipif(not any(map(importlib.util.find_spec, ("tomllib", "tomli"))), reason="this Python reads no TOML")
def test_a_toml_file_of_prompts(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text(
        '[prompt]\nwidth = 512\n[[prompt.subset]]\nprompt = "a dog"\n[[prompt.subset]]\nprompt = "a cat"\nwidth = 640\n'
    )
    assert [(line.prompt, line.width) for line in read_prompts(path)] == [("a dog", 512), ("a cat", 640)]


@pytest.mark.parametrize(
    ("name", "text"), [("a.json", "{"), ("a.json", "{}"), ("a.json", "[3]"), ("a.txt", "# only\n")]
)
def test_a_file_without_prompts_is_an_error(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(LoraTrainError, match=r"preview.sample_prompts"):
        read_prompts(tmp_path / name)
    with pytest.raises(LoraTrainError, match="No such file"):
        read_prompts(tmp_path / "none.txt")


@given(st.text(max_size=80))
def test_any_text_is_a_line(text: str) -> None:
    line = read_line(text)
    assert line.written == text.strip()

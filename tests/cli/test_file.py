"""`lora-train file`: each tool once, and its refusals."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lora_train.cli import main
from lora_train.lorafile.reading import read_lora
from lora_train.lorafile.writing import write_lora
from tests.lorafile.samples import lora_tensors
from tests.lorafile.witness import apart, deltas


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "a.safetensors"
    write_lora(path, lora_tensors(), {"ss_base_model_version": "sd_v1"}, "fp32", False)
    return path


def test_the_tools_do_what_they_say(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["file", "inspect", "--json", str(file)]) == 0
    assert json.loads(capsys.readouterr().out)[0]["base"] == "SD 1.x"
    assert main(["file", "inspect", str(file)]) == 0
    assert "lora (6)" in capsys.readouterr().out
    out = tmp_path / "out"
    assert main(["file", "convert", str(file), "--to", "peft", "--output", str(out)]) == 0
    assert apart(deltas(read_lora(out).tensors), deltas(lora_tensors())) < 1e-6
    small = tmp_path / "small.safetensors"
    assert main(["file", "resize", str(file), "--rank", "2", "--module", "lora_te_*=1", "--output", str(small)]) == 0
    assert "ranks 1 to 2" in capsys.readouterr().out
    both = tmp_path / "both.safetensors"
    assert main(["file", "merge", str(file), str(file), "--weights", "1", "-0.5", "--output", str(both)]) == 0
    assert apart(deltas(read_lora(both).tensors), {n: d / 2 for n, d in deltas(lora_tensors()).items()}) < 1e-5
    assert main(["file", "compare", str(file), str(both)]) == 0
    assert "cosine of all common modules: 1.0000" in capsys.readouterr().out
    assert main(["file", "metadata", str(file), "--set", "a=b=c", "--overwrite"]) == 0
    capsys.readouterr()
    assert main(["file", "metadata", str(file)]) == 0
    assert json.loads(capsys.readouterr().out)["a"] == "b=c"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["inspect", "none.safetensors"], "no such LoRA"),
        (["convert", "FILE", "--to", "word", "--output", "x"], "kohya, diffusers, peft"),
        (["convert", "FILE", "--to", "kohya", "--output", "FILE"], "exists already"),
        (["resize", "FILE", "--output", "x"], "no rank is given"),
        (["resize", "FILE", "--output", "x", "--module", "a"], "PATTERN=RANK"),
        (["resize", "FILE", "--output", "x", "--keep", "all"], "ratio, cumulative, frobenius"),
        (["merge", "FILE", "--weights", "1", "2", "--output", "x"], "1 files and 2 weights"),
        (["merge-into", "FILE", "FILE", "--output", "x.safetensors"], "not a Stable Diffusion checkpoint"),
        (["extract", "FILE", "FILE", "--rank", "4", "--output", "x.safetensors"], "not a Stable Diffusion checkpoint"),
        (["metadata", "FILE", "--set", "x"], "FIELD=TEXT"),
        (["convert", "FILE", "--to", "kohya", "--output", "x.pt"], "Give a name with .safetensors"),
        (["merge-into", "FILE", "FILE", "--output", "x.ckpt"], "Give a name with .safetensors"),
        (["metadata", "FILE", "--set", "a=b", "--output", "x"], "Give a name with .safetensors"),
        (["merge", "FILE", "--weights", "nan", "--output", "x.safetensors"], "finite numbers"),
        (["merge", "FILE", "--weights", "1e30", "--precision", "fp16", "--output", "x.safetensors"], "F16 cannot hold"),
        (["merge-into", "FILE", "FILE", "--weights", "inf", "--output", "x.safetensors"], "finite numbers"),
        (
            ["extract", "FILE", "FILE", "--rank", "4", "--clamp", "-1", "--output", "x.safetensors"],
            "not a valid quantile",
        ),
        (
            ["extract", "FILE", "FILE", "--rank", "4", "--clamp", "nan", "--output", "x.safetensors"],
            "not a valid quantile",
        ),
        (
            ["extract", "FILE", "FILE", "--rank", "4", "--min-difference", "nan", "--output", "x.safetensors"],
            "not a valid difference",
        ),
        (["resize", "FILE", "--module", "te_*=1", "--output", "x.safetensors"], "no module is called te_*"),
        (["inspect", "DAMAGED"], "an empty file, not a safetensors file"),
    ],
)
def test_mistakes_are_told(arguments: list[str], message: str, file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    damaged = file.with_name("damaged.safetensors")
    damaged.write_bytes(b"")
    given = [{"FILE": str(file), "DAMAGED": str(damaged)}.get(word, word) for word in arguments]
    assert main(["file", *given]) == 2
    assert message in capsys.readouterr().err
    assert not Path("x.safetensors").exists()


def test_all_mistakes_of_a_line_are_told(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = ["--output", str(file)]
    for arguments, count in (
        (["merge", "gone", "lost", "--weights", "1", "--rank", "0", *output], 5),
        (["resize", "gone", "--module", "a", "--module", "b=0", "--conv-rank", "0", *output], 5),
        (["merge-into", "gone", "lost", "--weights", "nan", *output], 4),
        (["extract", "gone", "lost", "--clamp", "2", *output], 5),
        (["compare", "gone", "lost"], 2),
    ):
        assert main(["file", *arguments]) == 2
        assert capsys.readouterr().err.count("error: ") == count, arguments
    assert main(["file", "inspect", "gone", str(file), "lost"]) == 2
    shown = capsys.readouterr()
    assert "lora (6)" in shown.out and shown.err.count("error: ") == 2

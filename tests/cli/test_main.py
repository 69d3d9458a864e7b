"""The command line as a person uses it: a process, its output, its exit code."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lora_train.cli import build_parser, main
from lora_train.cli.train import config_of
from tests.conftest import draw_pictures


def run(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"LORA_TRAIN_DATA": str(tmp_path / "data")}
    command = [sys.executable, "-m", "lora_train", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=Path(__file__).parents[2])


def test_the_seeds_example_is_understood() -> None:
    line = "--model sd-v15.ckpt --dir models/lora --tag sara --output lora-sara --input sara-images/"
    line += " --dim 192 --steps 20000"
    config = config_of(build_parser().parse_args(["train", *line.split()]), "", "")
    assert (config.model.path, config.data.folder, config.data.tag) == ("sd-v15.ckpt", "sara-images/", "sara")
    assert (config.save.output_name, config.save.output_dir) == ("lora-sara", "models/lora")
    assert (config.network.network_dim, config.train.max_train_steps) == (192, 20000)


def test_train_then_generate(tmp_path: Path) -> None:
    folder = str(draw_pictures(tmp_path / "in"))
    trained = run(
        tmp_path, "train", "--input", folder, "--output", "sara", "--tag", "sks", "--steps", "2", "--dim", "2"
    )
    assert trained.returncode == 0, trained.stderr
    path = tmp_path / "data" / "loras" / "sara.safetensors"
    assert path.is_file() and str(path) in trained.stdout
    picture = tmp_path / "out" / "p.png"
    made = run(tmp_path, "generate", "sks <lora:sara:0.5>", "--steps", "1", "--output", str(picture))
    assert made.returncode == 0 and picture.is_file(), made.stderr
    before = picture.read_bytes()
    made = run(tmp_path, "generate", "sks", "--steps", "1", "--output", str(picture))
    assert made.stdout.strip() == str(picture.with_name("p-2.png")) and picture.read_bytes() == before
    again = run(tmp_path, "train", "--input", folder, "--output", "sara", "--steps", "1")
    assert again.returncode == 2 and "exists already" in again.stderr and "--overwrite" in again.stderr
    assert run(tmp_path, "train", "--input", folder, "--output", "sara", "--steps", "1", "--overwrite").returncode == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--input", "{tmp}/empty"], "no pictures in this folder"),
        (["--input", "{tmp}/nowhere"], "no such folder"),
        (["--input", "{tmp}/text"], "not a picture"),
        (["--model", "{tmp}/text/a.png"], "not a model"),
        (["--model", "{tmp}/fake.safetensors"], "not a safetensors file"),
        (["--output", "a/b"], "contains '/'"),
        (["--output", ".."], "'..'"),
        (["--steps", "0"], "out of range"),
        (["--textlr1", "1e-5"], "has one text encoder"),
        (["--target", "0"], "out of range"),
        (["--mask-folder", "{tmp}/empty"], "the loss is not masked"),
        (["--no-v-parameterization", "--zero-terminal-snr"], "is for bases that predict v"),
    ],
)
def test_bad_input_has_a_message_and_writes_nothing(
    change: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LORA_TRAIN_DATA", str(tmp_path / "data"))
    draw_pictures(tmp_path / "in", 1)
    (tmp_path / "empty").mkdir()
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.png").write_text("hello")
    (tmp_path / "fake.safetensors").write_text("hello, this is no checkpoint")
    before = sorted(tmp_path.rglob("*"))
    arguments = ["train", "--input", str(tmp_path / "in"), "--output", "x", "--dir", str(tmp_path / "loras")]
    code = main([*arguments, *(part.format(tmp=tmp_path) for part in change)])
    error = capsys.readouterr().err
    assert code == 2
    assert message in error and "Traceback" not in error
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT for one process")
@pytest.mark.parametrize("sent", ["SIGINT", "SIGTERM"])
def test_ctrl_c_and_the_like_save_and_say_where(tmp_path: Path, sent: str) -> None:
    folder = str(draw_pictures(tmp_path / "in"))
    command = [sys.executable, "-m", "lora_train", "train", "--input", folder, "--output", "x", "--steps", "100000"]
    environment = os.environ | {"LORA_TRAIN_DATA": str(tmp_path / "data"), "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        cwd=Path(__file__).parents[2],
    )
    deadline = time.monotonic() + 120
    while not any('"step"' in p.read_text() for p in tmp_path.glob("data/runs/*/events.jsonl")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.Signals[sent])
    out, err = process.communicate(timeout=60)
    path = tmp_path / "data" / "loras" / "x.safetensors"
    assert process.returncode == 128 + signal.Signals[sent], err
    assert path.is_file() and str(path) in out and "LoRA so far is saved" in out
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--seed", "99999999999999999999"], "--seed"),
        (["--guidance", "nan"], "--guidance"),
        (["--steps", "0", "--count", "0"], "--count"),
        (["--output", "noext"], "cannot be written"),
    ],
)
def test_generate_checks_its_numbers_first(change: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "sks", *change]) == 2
    assert message in capsys.readouterr().err


def test_shutdown_without_a_webui_is_refused(tmp_path: Path) -> None:
    assert main(["train", "--shutdown"]) == 2


def test_resume_of_a_finished_run_says_how_it_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LORA_TRAIN_DATA", str(tmp_path / "data"))
    assert main(["resume"]) == 2
    assert "no such run to continue (there: none)" in capsys.readouterr().err
    folder = str(draw_pictures(tmp_path / "in"))
    assert main(["train", "--input", folder, "--output", "sara", "--steps", "1", "--dim", "2"]) == 0
    (run_folder,) = (tmp_path / "data" / "runs").iterdir()
    capsys.readouterr()
    for arguments in (["resume"], ["resume", run_folder.name]):
        assert main(arguments) == 2
        told = capsys.readouterr().err
        assert "finished" in told and "--continue" in told and f"resume {run_folder.name} --steps N" in told
    assert main(["resume", run_folder.name, "--steps", "2"]) == 0
    assert "sara.safetensors" in capsys.readouterr().out

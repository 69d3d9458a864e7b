"""`kill -9` at random moments, during saves and before the first state as well: the resumed run has the same bits."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lora_train.cli import main
from lora_train.config import RunConfig
from lora_train.config.training_methods import OPTIMIZERS
from lora_train.hosts.standalone import StandaloneHost
from lora_train.lorafile.reading import read_lora
from lora_train.runs.execute import resume_training, run_training
from lora_train.runs.folder import RunFolder, list_runs
from tests.runs.test_logs import rows
from tests.runs.test_resume import _stop_after

Make = Callable[..., RunConfig]
ROOT = Path(__file__).parents[2]

CASES: dict[str, dict[str, Any]] = {
    "adamw, with everything that draws": {
        "optimizer": "adamw",
        "gradient_accumulation_steps": 2,
        "noise_offset": 0.1,
        "ip_noise_gamma": 0.1,
        "min_snr_gamma": 5.0,
        "preserve": 0.5,
    },
    "a rate of its own": {"optimizer": "finding", "learning_rate": 1.0, "text_encoder_lr": 1.0},
    "weights in use": {"optimizer": "between"},
    "prodigy": {"optimizer": "prodigy", "learning_rate": 1.0, "text_encoder_lr": 1.0},
    "schedule-free": {"optimizer": "adamwschedulefree"},
}
KILLS = 5
"""Per case; with all that is installed 25 in all."""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.parametrize("case", CASES)
def test_killed_at_random_moments_it_has_the_same_bits(make_config: Make, tmp_path: Path, case: str) -> None:
    """The text encoder is trained, captions are shuffled and dropped, ranks and pictures too."""
    train = CASES[case]
    if train["optimizer"] in OPTIMIZERS and OPTIMIZERS[train["optimizer"]].missing:
        pytest.skip(f"{OPTIMIZERS[train['optimizer']].install} is not installed")
    plain = make_config(
        train={"max_train_steps": 5, "text_encoder_lr": 1e-4} | {k: v for k, v in train.items() if k != "optimizer"},
        data={"shuffle_caption": True, "flip_aug": True, "caption_dropout_rate": 0.2, "resolution": 64},
        network={"network_dropout": 0.1, "rank_dropout": 0.1},
        save={"output_dir": str(tmp_path / "out"), "save_precision": "fp32", "save_every_n_steps": 2},
    )
    content = plain.to_dict()
    content["train"]["optimizer"] = train["optimizer"]
    draw = random.Random(case)
    # the first kills lie before the first saved state, and the last ones during the last saves
    shares = [draw.uniform(0, 0.2), draw.uniform(0.9, 1), *(draw.random() for _ in range(KILLS - 2))]
    job = tmp_path / "job.json"
    modules = ["tests.runs.adaptive"] if train["optimizer"] in ("finding", "between") else []
    job.write_text(json.dumps({"folder": str(tmp_path), "config": content, "modules": modules, "moments": shares}))
    done = subprocess.run(
        [sys.executable, "-m", "tests.runs.killing", str(job)], cwd=ROOT, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stderr[-3000:]
    counted, *killed = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert counted["calls"] > 50 and len(killed) == KILLS
    assert sum(one["resumed"] > 0 for one in killed) >= KILLS - 1
    expected = read_lora(tmp_path / "whole.safetensors").tensors
    for number, one in enumerate(killed):
        if not one["run"]:  # before the run had its folder: there is nothing that could be resumed
            continue
        assert one["there"], one
        found = read_lora(tmp_path / f"{number}.safetensors").tensors
        assert found.keys() == expected.keys() and all(torch.equal(found[k], expected[k]) for k in expected), one
        folder = RunFolder(tmp_path / f"data-{number}" / "runs" / one["run"])
        assert [int(row["step"]) for row in rows(folder.path)] == [1, 2, 3, 4, 5], "no step twice, none of a lost one"
        assert folder.read()["state"] == "finished" and not [*folder.path.rglob(".*.part")]


def test_killed_behind_the_saving_it_is_resumed_with_its_own_file(make_config: Make, host: StandaloneHost) -> None:
    """The LoRA is there, and the run has not noted it."""
    listen, stopped = _stop_after(2)
    folder = RunFolder(run_training(make_config(), host, listen, stopped).folder)
    folder.update(state="training", result=None)
    (folder.path / "state" / ".state.safetensors.x.part").write_bytes(b"half")
    done = resume_training(folder, host)
    assert done.steps == 3 and done.path is not None and read_lora(done.path).metadata["ss_steps"] == "3"
    assert not [*folder.path.rglob("*.part")]


def test_a_run_killed_in_its_first_second_is_resumed_at_the_command_line(
    make_config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """From its own configuration: the flags of then are not needed."""
    monkeypatch.setenv("LORA_TRAIN_DATA", str(tmp_path / "data"))
    host = StandaloneHost()
    folder = RunFolder.create(host.data_dir() / "runs", make_config(train={"max_train_steps": 2}))
    assert [run.can_resume for run in list_runs(host.data_dir() / "runs")] == [True]
    assert main(["resume"]) == 0
    said = capsys.readouterr()
    assert folder.read()["state"] == "finished" and folder.read()["steps_done"] == 2
    assert "Saved:" in said.out and not [e for e in folder.events() if e["kind"] == "error"]

"""The base model that pictures are made with where none is given."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from lora_train.config import RunConfig
from lora_train.demo.files import GUIDANCE
from lora_train.hosts.standalone import StandaloneHost
from lora_train.lorafile.writing import serialise
from lora_train.runs.bases import base_for, remember_base, usual_guidance
from lora_train.runs.folder import RunFolder

Make = Callable[..., RunConfig]


def lora(folder: Path, **metadata: str) -> Path:
    path = folder / "sara.safetensors"
    path.write_bytes(serialise({"x": torch.tensor(1.0)}, metadata))
    return path


def model(folder: Path, name: str) -> Path:
    path = folder / name
    path.write_bytes(b"a checkpoint")
    return path


def trained_on(host: StandaloneHost, make_config: Make, path: Path, at: float) -> RunFolder:
    run = RunFolder.create(host.data_dir() / "runs", make_config(model={"path": str(path)}))
    os.utime(run.path / "run.json", (at, at))
    return run


def test_the_demos_where_there_is_nothing_else(host: StandaloneHost, base: Path, tmp_path: Path) -> None:
    chosen = base_for([], host)
    assert chosen is not None and (chosen.path, chosen.why) == (base, "the demo's")
    chosen = base_for([lora(tmp_path), tmp_path / "gone.safetensors"], host)
    assert chosen is not None and (chosen.path, chosen.why) == (base, "the demo's")


def test_that_of_the_loras_own_run(host: StandaloneHost, make_config: Make, tmp_path: Path) -> None:
    """By the run's id, also where another of that name was used later."""
    (tmp_path / "other").mkdir()
    its, other = model(tmp_path, "sd.ckpt"), model(tmp_path / "other", "sd.ckpt")
    run = trained_on(host, make_config, its, 1000.0)
    trained_on(host, make_config, other, 2000.0)
    chosen = base_for([lora(tmp_path, ss_session_id=run.id, ss_sd_model_name="sd.ckpt")], host)
    assert chosen is not None and (chosen.path, chosen.why) == (its, "sara was trained on it")


@pytest.mark.parametrize("told", ["sd.ckpt", "sd", "/theirs/sd.ckpt", "D:\\theirs\\sd.ckpt"])
def test_one_that_is_known_here_by_the_name_in_the_file(
    told: str, host: StandaloneHost, make_config: Make, tmp_path: Path
) -> None:
    its, other = model(tmp_path, "sd.ckpt"), model(tmp_path, "other.ckpt")
    trained_on(host, make_config, its, 1000.0)
    trained_on(host, make_config, other, 2000.0)
    chosen = base_for([lora(tmp_path, ss_sd_model_name=told)], host)
    assert chosen is not None and chosen.path == its


def test_what_a_file_from_elsewhere_names_is_not_opened_for_that(
    host: StandaloneHost, base: Path, make_config: Make, tmp_path: Path
) -> None:
    strange = model(tmp_path, "strange.ckpt")
    for session in ("", "..", "../..", str(tmp_path)):
        chosen = base_for([lora(tmp_path, ss_sd_model_name=str(strange), ss_session_id=session)], host)
        assert chosen is not None and chosen.path == base
        assert chosen.why == f"the demo's; sara was trained on {strange}, which is not known here"


def test_else_the_one_used_last_if_it_is_still_there(
    host: StandaloneHost, base: Path, make_config: Make, tmp_path: Path
) -> None:
    gone, there, drawn = (model(tmp_path, f"{name}.ckpt") for name in ("gone", "there", "drawn"))
    trained_on(host, make_config, there, 1000.0)
    trained_on(host, make_config, gone, 2000.0)
    gone.unlink()
    chosen = base_for([lora(tmp_path, ss_sd_model_name="unknown.ckpt")], host)
    assert chosen is not None and chosen.path == there
    assert chosen.why == "used last; sara was trained on unknown.ckpt, which is not known here"
    remember_base(drawn, host)
    chosen = base_for([], host)
    assert chosen is not None and (chosen.path, chosen.why) == (drawn, "used last")
    drawn.unlink()
    there.unlink()
    chosen = base_for([], host)
    assert chosen is not None and chosen.path == base


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"path": 5}', '{"path": "a\\u0000b"}'])
def test_a_damaged_note_is_none(content: str, host: StandaloneHost, base: Path) -> None:
    host.data_dir().mkdir()
    (host.data_dir() / "last-base.json").write_text(content, encoding="utf-8")
    chosen = base_for([], host)
    assert chosen is not None and chosen.path == base


def test_the_demos_base_has_a_guidance_of_its_own(base: Path, tmp_path: Path) -> None:
    assert usual_guidance(base) == GUIDANCE
    assert usual_guidance(tmp_path) is None and usual_guidance(Path("")) is None and usual_guidance(Path("\0")) is None

"""Previews, cards and what comes after a LoRA is saved: that they fail is noted, and the LoRA stays."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from lora_train.config import RunConfig
from lora_train.errors import LoraTrainError
from lora_train.hosts.standalone import StandaloneHost
from lora_train.lorafile import writing
from lora_train.models import sampling
from lora_train.runs.execute import run_training
from lora_train.runs.folder import RunFolder, list_runs
from lora_train.runs.stages import Result

Make = Callable[..., RunConfig]


def _short(make_config: Make, steps: int, **groups: Any) -> RunConfig:
    return make_config(train={"max_train_steps": steps}, data={"resolution": 64, "train_batch_size": 1}, **groups)


def _with_previews(config: RunConfig) -> RunConfig:
    preview = {"prompts": ["sks on blue", "sks"], "sample_every_n_steps": 1, "steps": 2}
    return RunConfig.from_dict(config.to_dict() | {"preview": preview})


def _notes(result: Result) -> list[str]:
    return [event["text"] for event in RunFolder(result.folder).events() if event["kind"] == "note"]


def test_a_preview_that_fails_is_a_note(
    make_config: Make, host: StandaloneHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    errors = [
        torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        MemoryError(),
        AssertionError("nobody thought of this"),
    ]

    def broken(*_: Any) -> Any:
        if errors:
            raise errors.pop(0)
        return sample(*_)

    sample = sampling.sample
    monkeypatch.setattr(sampling, "sample", broken)
    monkeypatch.setattr(
        "lora_train.models.latent_diffusion.LatentDiffusion.decode_latents",
        lambda self, latents: torch.full((1, 3, 8, 8), torch.nan),
    )
    result = run_training(_with_previews(_short(make_config, 1)), host)
    assert result.path is not None and result.path.is_file() and result.steps == 1
    assert RunFolder(result.folder).read()["state"] == "finished"
    told = [note for note in _notes(result) if "was not made" in note]
    assert len(told) == 4, "two prompts at the start and at the end"
    assert "not enough memory" in told[0] and "not enough memory" in told[1]
    assert told[2] == "The preview of step 1 was not made: AssertionError: nobody thought of this"
    assert "NaN or infinite" in told[3], "where it would be black"
    assert not list((result.folder / "samples").glob("*.png"))


def test_a_card_that_fails_is_a_note(make_config: Make, host: StandaloneHost, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> Any:
        raise ValueError("no card today")

    monkeypatch.setattr("lora_train.runs.pictures.png_bytes", broken)
    result = run_training(_short(make_config, 1), host)
    assert result.path is not None and result.path.is_file()
    assert RunFolder(result.folder).read()["state"] == "finished"
    assert any("card" in note and "no card today" in note for note in _notes(result))


def test_an_intermediate_file_that_fails_is_a_note(
    make_config: Make, host: StandaloneHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = writing.write_lora

    def full(path: Path, *rest: Any) -> Any:
        if "-step" in path.name:
            raise LoraTrainError("the disk is full.", str(path))
        return write(path, *rest)

    monkeypatch.setattr(writing, "write_lora", full)
    result = run_training(_short(make_config, 2, save={"save_every_n_steps": 1}), host)
    assert result.path is not None and result.path.is_file()
    assert any("after step 1 was not saved" in note and "disk is full" in note for note in _notes(result))


class _Failing(StandaloneHost):
    """Its model does not come back, and its list of LoRAs cannot be read."""

    @contextmanager
    def lend_gpu(self, stopped: Any = None, note: Any = print) -> Iterator[None]:  # type: ignore[override]
        yield
        raise RuntimeError("the model is gone")

    def refresh_loras(self, changed: Path | None = None) -> None:
        raise KeyError("networks")


def test_what_fails_once_the_lora_is_saved_is_a_note(make_config: Make, tmp_path: Path) -> None:
    result = run_training(_short(make_config, 1), _Failing(tmp_path / "data"))
    assert result.path is not None and result.path.is_file()
    run = RunFolder(result.folder).read()
    assert run["state"] == "finished" and run["result"] == str(result.path)
    assert any("the model is gone" in note for note in _notes(result))
    assert any("list of LoRAs" in note for note in _notes(result))


def test_what_fails_before_is_a_failed_run(make_config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lora_train.train.loop.Trainer.run", lambda self: 1 / 0)
    with pytest.raises(LoraTrainError, match="ZeroDivisionError"):
        run_training(make_config(), _Failing(tmp_path / "data"))
    assert list_runs(tmp_path / "data" / "runs")[0].read()["state"] == "failed"

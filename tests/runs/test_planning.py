"""A run on a GPU with too little memory: what is chosen is reported, used, and kept by a resume."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lora_train.config import RunConfig, planner
from lora_train.errors import LoraTrainError
from lora_train.hosts.standalone import StandaloneHost
from lora_train.models.opening import open_model
from lora_train.runs import execute
from lora_train.runs.execute import run_training
from lora_train.runs.folder import RunFolder
from lora_train.train.footprint import Counter
from lora_train.train.loop import Trainer

LORA = {"network_train_unet_only": True}


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[Trainer]:
    """The trainers that ran."""
    found: list[Trainer] = []
    real = Trainer.run
    monkeypatch.setattr(Trainer, "run", lambda trainer: found.append(trainer) or real(trainer))
    monkeypatch.setattr(planner, "REST", 0)  # more than all that the tiny base needs
    return found


def _peaks(config: RunConfig) -> dict[str, int]:
    """What a step of one picture needs, without and with checkpointing, and with a base in fp8 besides."""
    model = open_model(Path(config.model.path))
    side = config.data.resolution or model.native_resolution
    counter = Counter(config, model, ("lora_unet",))
    plain, again = (counter.count(1, side, side, share) for share in (0.0, 1.0))
    saved = counter.base_bytes("full") - counter.base_bytes("fp8")
    return {"plain": plain.peak, "again": again.peak, "fp8": again.peak - saved}


def test_a_run_gives_up_what_it_must(
    make_config: Callable[..., RunConfig], host: StandaloneHost, monkeypatch: pytest.MonkeyPatch, trained: list[Trainer]
) -> None:
    config = make_config(network=LORA)
    peaks = _peaks(config)
    assert peaks["fp8"] < peaks["again"] < peaks["plain"]
    free = int(1.06 * peaks["fp8"])  # for one picture, not for two
    monkeypatch.setattr(execute, "free_memory", lambda device: free)
    result = run_training(config, host)
    folder = RunFolder(result.folder)
    chosen: dict[str, Any] = {choice["field"]: choice["value"] for choice in folder.read()["choices"]}
    assert chosen["train.micro_batch_size"] == 1
    assert chosen["train.gradient_checkpointing"] is True and chosen["train.base_precision"] == "fp8"
    options = trained[0].config.train
    assert (options.micro_batch_size, options.gradient_checkpointing, options.base_precision) == (1, True, "fp8")
    assert any("stored in fp8" in note for note in trained[0].notes)
    assert result.path is not None and result.path.exists()


def test_where_nothing_fits_the_run_says_so(
    make_config: Callable[..., RunConfig], host: StandaloneHost, monkeypatch: pytest.MonkeyPatch, trained: list[Trainer]
) -> None:
    monkeypatch.setattr(execute, "free_memory", lambda device: 1_000_000)
    with pytest.raises(LoraTrainError, match="0.0 GB are free on the GPU"):
        run_training(make_config(network=LORA), host)
    assert not trained


def test_without_a_gpu_nothing_is_given_up(
    make_config: Callable[..., RunConfig], host: StandaloneHost, monkeypatch: pytest.MonkeyPatch, trained: list[Trainer]
) -> None:
    counted: list[int] = []
    monkeypatch.setattr(Counter, "count", lambda *_: counted.append(1))
    run_training(make_config(), host)
    options = trained[0].config.train
    assert not counted and (options.gradient_checkpointing, options.base_precision) == (False, "full")

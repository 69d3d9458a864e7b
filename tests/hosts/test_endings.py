"""However a run in a WebUI ends, its checkpoint is back, its queue is free, and the reason is plain."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lora_train.config import RunConfig
from lora_train.errors import LoraTrainError
from lora_train.hosts.webui import WebuiHost
from lora_train.runs.check import check_run
from lora_train.runs.execute import execute, run_training
from lora_train.runs.folder import RunFolder
from lora_train.runs.stages import Stages
from tests.hosts.fake_webui import Fake, FakeModel

Make = Callable[..., RunConfig]


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Fake:
    fake = Fake(monkeypatch, tmp_path)
    fake.load_model(fake.info)
    fake.loads.clear()
    return fake


def _given_back(fake: Fake) -> bool:
    there = fake.data.sd_model is not None and not any(p.is_meta for p in fake.data.sd_model.parameters())
    return there and fake.call_queue.queue_lock.acquire(blocking=False) and fake.state.job == ""


def test_finished(fake: Fake, make_config: Make) -> None:
    run_training(make_config(), WebuiHost())
    assert fake.loads == ["one.safetensors"] and _given_back(fake)


def test_the_disk_is_full_while_saving(fake: Fake, make_config: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, _data: bytes) -> None:
        raise LoraTrainError("cannot write the file: No space left on device.", str(path), "Make room.")

    monkeypatch.setattr("lora_train.lorafile.writing.write_bytes", full)
    with pytest.raises(LoraTrainError, match="No space left"):
        run_training(make_config(), WebuiHost())
    assert _given_back(fake)


def test_the_folder_for_loras_is_read_only(
    fake: Fake, make_config: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("lora_train.runs.check._writable", lambda folder: False)  # root may write anywhere
    with pytest.raises(LoraTrainError, match="cannot be written"):
        run_training(make_config(), WebuiHost())
    assert fake.loads == [] and _given_back(fake) and not (tmp_path / "lora-train" / "runs").exists()


@pytest.mark.parametrize("when", ["before the start", "while it waits"])
def test_the_checkpoint_was_deleted(fake: Fake, make_config: Make, base: Path, tmp_path: Path, when: str) -> None:
    chosen = tmp_path / "chosen"
    shutil.copytree(base, chosen)
    config, host = make_config(model={"path": str(chosen)}), WebuiHost()
    if when == "before the start":
        shutil.rmtree(chosen)
        with pytest.raises(LoraTrainError, match="no such file or folder"):
            run_training(config, host)
    else:
        manifest = check_run(config, host)
        folder = RunFolder.create(host.data_dir() / "runs", config)
        shutil.rmtree(chosen)
        with pytest.raises(LoraTrainError, match="no such file or folder"):
            execute(folder, config, manifest, host, lambda: False, Stages())
        assert folder.read()["state"] == "failed"
    assert _given_back(fake)


def test_an_older_webui_lacks_a_function(fake: Fake, make_config: Make) -> None:
    del fake.sd_models.send_model_to_trash
    with pytest.raises(LoraTrainError, match="Update the WebUI"):
        run_training(make_config(), WebuiHost())
    assert _given_back(fake)


def test_several_models_in_memory(fake: Fake, make_config: Make) -> None:
    """SDXL with its refiner, and another checkpoint kept ("maximum number of checkpoints loaded")."""
    others = [FakeModel("sd_xl_base.safetensors"), FakeModel("sd_xl_refiner.safetensors")]
    for model in others:
        model.conditioner = FakeModel(model.sd_checkpoint_info.filename)
        model.is_sdxl = True
    fake.data.loaded_sd_models += others
    fake.data.sd_model = others[0]
    current: Any = others[0].sd_checkpoint_info
    fake.choose(current)
    run_training(make_config(), WebuiHost())
    assert all(p.is_meta for model in others for p in model.parameters())
    assert fake.data.sd_model.sd_checkpoint_info.filename == current.filename and _given_back(fake)

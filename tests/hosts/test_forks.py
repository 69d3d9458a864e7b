"""Forge and SD.Next against fakes of what they do differently."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from lora_train.hosts.detect import detect
from lora_train.hosts.forge import ForgeHost
from lora_train.hosts.sdnext import SdNextHost
from lora_train.hosts.settings import KEEP_IN_RAM, REFUSE
from lora_train.models.tokenizers import VOCABULARY_SIZE
from tests.full_size import write_tokenizer
from tests.hosts.fake_webui import Fake, FIFOLock

PICTURE = Image.new("RGB", (8, 8))


class ModelData:
    """Forge's: before the first picture there is a stand-in."""

    def __init__(self) -> None:
        self.sd_model: Any = SimpleNamespace(name="stand-in")
        self.forge_hash = ""
        self.forge_loading_parameters: dict[str, Any] = {}


@pytest.fixture
def forge(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Fake:
    fake = Fake(monkeypatch, tmp_path)
    fake.module("modules_forge")
    fake.sd_models.model_data = fake.data = ModelData()
    fake.module("backend")
    fake.module(
        "backend.memory_management",
        unload_all_models=lambda: fake.calls.append("unload"),
        soft_empty_cache=lambda: fake.calls.append("empty"),
    )
    return fake


def test_forge_unloads_by_its_own_management(forge: Fake) -> None:
    host = detect()
    assert type(host) is ForgeHost
    model = SimpleNamespace(forge_objects=SimpleNamespace(clip=None), current_lora_hash="x")
    forge.data.sd_model, forge.data.forge_hash = model, "hash"
    with host.lend_gpu():
        assert forge.calls == ["unload", "empty"]
        assert forge.data.sd_model is not model and forge.data.forge_hash == "", "loaded anew at the next picture"
    assert forge.call_queue.queue_lock.acquire(blocking=False)


def test_forge_offers_the_chosen_checkpoint_before_it_is_loaded(forge: Fake, tmp_path: Path) -> None:
    chosen = SimpleNamespace(filename=str(tmp_path / "two.safetensors"))
    forge.data.forge_loading_parameters = {"checkpoint_info": chosen}
    assert ForgeHost().current_checkpoint() == tmp_path / "two.safetensors"
    assert ForgeHost().tokenizers() == []


@pytest.mark.parametrize(
    "folder",
    ["backend/huggingface/stabilityai/stable-diffusion-xl-base-1.0/tokenizer", "ldm_patched/modules/sd1_tokenizer"],
)
def test_forge_has_clips_tokenizer_among_its_files(forge: Fake, tmp_path: Path, folder: str) -> None:
    other = tmp_path / "backend/huggingface/Qwen/Qwen-Image/tokenizer"
    other.mkdir(parents=True)
    (other / "vocab.json").write_text('{"a": 0}', encoding="utf-8")
    (other / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
    assert ForgeHost().tokenizers() == []
    write_tokenizer(tmp_path / folder)
    (found,) = ForgeHost().tokenizers()
    assert len(found) == VOCABULARY_SIZE


def test_sdnext_has_clips_tokenizer_among_its_files(sdnext: Fake, tmp_path: Path) -> None:
    write_tokenizer(tmp_path / "configs/sd15/tokenizer")
    assert [len(found) for found in SdNextHost().tokenizers()] == [VOCABULARY_SIZE]


def test_forge_applies_an_overwritten_lora_anew(forge: Fake, tmp_path: Path) -> None:
    file, cleared = tmp_path / "a.safetensors", []
    network = SimpleNamespace(network_on_disk=SimpleNamespace(filename=str(file)))
    load = SimpleNamespace(cache_clear=lambda: cleared.append(True))
    forge.module("networks", loaded_networks=[network], load_lora_state_dict=load, list_available_networks=lambda: None)
    forge.data.sd_model = SimpleNamespace(forge_objects=1, current_lora_hash="old")
    ForgeHost().refresh_loras(file)
    assert forge.data.sd_model.current_lora_hash == "" and cleared == [True]


def test_several_lora_folders(forge: Fake, tmp_path: Path) -> None:
    forge.commands.lora_dir = None
    forge.commands.lora_dirs = [str(tmp_path / "first"), str(tmp_path / "second")]
    assert ForgeHost().lora_dir() == tmp_path / "first"


@pytest.fixture
def sdnext(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Fake:
    fake = Fake(monkeypatch, tmp_path)
    fake.module("modules.lora")
    fake.module("modules.lora.lora_load", list_available_networks=lambda: fake.calls.append("list"))
    fake.options.lora_dir = str(tmp_path / "loras")
    fake.sd_models.unload_model_weights = lambda op: fake.calls.append(f"unload {op}")
    fake.sd_models.reload_model_weights = lambda op: fake.calls.append(f"reload {op}")
    fake.state.begin = lambda job="": setattr(fake.state, "job", job) or "id7"  # type: ignore[method-assign, assignment, func-returns-value]
    fake.state.end = lambda job: fake.ended.append(job)  # type: ignore[method-assign, assignment, misc]
    return fake


def test_sdnext_unloads_and_reloads(sdnext: Fake, tmp_path: Path) -> None:
    host = detect()
    assert type(host) is SdNextHost
    assert host.lora_dir() == tmp_path / "loras"
    sdnext.data.sd_model = SimpleNamespace(tokenizer=SimpleNamespace(get_vocab=dict))
    assert len(host.tokenizers()) == 1
    with host.lend_gpu():
        assert sdnext.calls == ["unload model"]
    host.refresh_loras()
    assert sdnext.calls == ["unload model", "reload model", "list"]
    assert sdnext.ended == ["id7"]


def test_sdnext_gets_all_back_after_an_error(sdnext: Fake) -> None:
    sdnext.data.sd_model = SimpleNamespace()
    sdnext.options.data["lora_train_generation"] = REFUSE
    with pytest.raises(ValueError, match="training failed"), SdNextHost().lend_gpu():
        raise ValueError("training failed")
    assert sdnext.calls == ["unload model", "reload model"]
    assert sdnext.ended == ["id7"]
    lock = sdnext.call_queue.queue_lock
    assert type(lock) is FIFOLock and lock.acquire(blocking=False)


def test_sdnext_without_a_model_loads_none(sdnext: Fake) -> None:
    with SdNextHost().lend_gpu():
        pass
    assert sdnext.calls == []


def test_forge_gets_all_back_after_an_error(forge: Fake) -> None:
    forge.options.data["lora_train_generation"] = REFUSE
    with pytest.raises(ValueError, match="training failed"), ForgeHost().lend_gpu():
        raise ValueError("training failed")
    lock = forge.call_queue.queue_lock
    assert type(lock) is FIFOLock and lock.acquire(blocking=False) and forge.state.job == ""


def test_forge_keeps_a_model_that_is_to_stay_in_memory(forge: Fake) -> None:
    forge.options.data["lora_train_model"] = KEEP_IN_RAM
    model = SimpleNamespace(forge_objects=SimpleNamespace(clip=None))
    forge.data.sd_model, forge.data.forge_hash = model, "hash"
    with ForgeHost().lend_gpu():
        assert forge.data.sd_model is model and forge.data.forge_hash == "hash"


def test_sdnext_whose_model_does_not_come_back_says_so(sdnext: Fake) -> None:
    def broken(op: str) -> None:
        raise RuntimeError("gone")

    sdnext.data.sd_model = SimpleNamespace()
    sdnext.sd_models.reload_model_weights = broken
    notes: list[str] = []
    with SdNextHost().lend_gpu(note=notes.append):
        pass
    assert "gone" in notes[-1]


def test_sdnext_captions(sdnext: Fake) -> None:
    sdnext.module("modules.interrogate")
    sdnext.module("modules.interrogate.interrogate", interrogate=lambda picture: f"{picture.width} wide")
    assert list(SdNextHost().caption([PICTURE, PICTURE], "blip")) == ["8 wide", "8 wide"]

"""The A1111 adapter against the fake: the loan, captions, queue, settings, prompts."""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from torch import nn

from lora_train.errors import LoraTrainError, Stopped
from lora_train.hosts.access import PAGE_HEADER, Login
from lora_train.hosts.detect import detect
from lora_train.hosts.queueing import GenerationRefused
from lora_train.hosts.settings import APPLY_AUTO, APPLY_HOST, APPLY_OURS, KEEP_IN_RAM, REFUSE, SETTINGS, Settings
from lora_train.hosts.webui import WebuiHost
from tests.hosts.fake_webui import Fake, FakeModel, FIFOLock, Restorer


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Fake:
    return Fake(monkeypatch, tmp_path)


def _pictures(count: int = 3) -> list[Image.Image]:
    return [Image.new("RGB", (16 + n, 16), (200, 100, 50)) for n in range(count)]


def test_it_is_recognised_and_says_where_things_are(fake: Fake, tmp_path: Path) -> None:
    host = detect()
    assert type(host) is WebuiHost
    assert host.checkpoints() == [tmp_path / "models" / "one.safetensors"]
    assert host.current_checkpoint() == tmp_path / "models" / "one.safetensors"
    assert host.lora_dir() == tmp_path / "models" / "Lora"
    assert host.data_dir() == tmp_path / "lora-train"


def test_the_gpu_it_was_given_is_the_one_that_trains(fake: Fake) -> None:
    assert WebuiHost().device() == "auto"
    for device, expected in (("cuda:1", "cuda:1"), ("cuda", "auto"), ("cpu", "auto"), ("mps", "auto")):
        fake.module("modules.devices", cpu=torch.device("cpu"), torch_gc=lambda: None, device=torch.device(device))
        assert WebuiHost().device() == expected


def test_looking_for_checkpoints_chooses_none(fake: Fake) -> None:
    def list_models() -> None:  # with --ckpt
        fake.options.data["sd_model_checkpoint"] = "given.safetensors"
        raise OSError("no such folder")

    fake.sd_models.list_models = list_models
    WebuiHost().look_for_checkpoints()
    assert fake.options.sd_model_checkpoint == "one.safetensors"


def test_settings_have_a_heading_of_their_own(fake: Fake) -> None:
    from lora_train.hosts.webui_options import add_options

    class OptionInfo(SimpleNamespace):
        def __init__(self, default: Any, label: str, *_given: Any, section: tuple[str, str]) -> None:
            super().__init__(default=default, label=label, section=section)

    added: dict[str, Any] = {}
    fake.shared.OptionInfo = OptionInfo
    fake.options.add_option = added.__setitem__
    add_options()  # a WebUI without categories
    registered: list[tuple[str, str]] = []
    categories = SimpleNamespace(register_category=lambda *category: registered.append(category))
    fake.module("modules.options", categories=categories)
    add_options()
    assert {info.category_id for info in added.values()} == {registered[0][0]} and len(added) == len(SETTINGS)
    assert all(len(info.section) == 2 for info in added.values())


def test_which_captioners_it_has(fake: Fake, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert WebuiHost().caption_kinds() == ("blip", "deepbooru")
    assert tmp_path / "models" / "GFPGAN" in WebuiHost().face_weights()
    monkeypatch.delattr(fake.shared, "interrogator")  # as in Forge Neo
    monkeypatch.delattr(sys.modules["modules"], "deepbooru")
    monkeypatch.delitem(sys.modules, "modules.deepbooru")
    assert WebuiHost().caption_kinds() == ()


def test_freeing_fully_really_frees_and_brings_back(fake: Fake) -> None:
    fake.load_model(fake.info)
    cached = FakeModel("two.safetensors")
    fake.data.loaded_sd_models.append(cached)
    before = fake.data.sd_model
    fake.interrogator.load()
    fake.shared.face_restorers[0].net = nn.Linear(2, 2)
    notes: list[str] = []
    with WebuiHost().lend_gpu(note=notes.append):
        assert all(p.is_meta for model in (before, cached) for p in model.parameters())
        assert fake.data.sd_model is None and fake.data.loaded_sd_models == []
        assert fake.data.was_loaded_at_least_once, "a look at shared.sd_model would load one"
        assert fake.interrogator.blip_model is None and fake.shared.face_restorers[0].net is None
        assert "face_helper" not in vars(fake.shared.face_restorers[0])
        assert fake.sd_models.checkpoints_loaded == {}
        assert fake.processing.StableDiffusionProcessing.cached_c == [None, None]
        assert fake.processing.StableDiffusionProcessingTxt2Img.cached_hr_c == [None, None]
        assert fake.state.current_latent is None and fake.state.job == "lora_train"
    assert fake.loads == ["one.safetensors", "one.safetensors"]
    assert fake.data.sd_model is not None and not any(p.is_meta for p in fake.data.sd_model.parameters())
    assert fake.state.job == ""


def test_keeping_it_in_memory_moves_it_back(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    fake.options.lora_train_model = KEEP_IN_RAM
    model = fake.load_model(fake.info)
    monkeypatch.setattr("lora_train.hosts.lending._device_of", lambda _model: "cuda")
    with WebuiHost().lend_gpu():
        assert fake.data.sd_model is model and not any(p.is_meta for p in model.parameters())
    assert fake.loads == ["one.safetensors", "device"] and fake.data.sd_model is model


def test_medvram_only_sends_its_travelling_part_away(fake: Fake) -> None:
    fake.options.lora_train_model = KEEP_IN_RAM
    model = FakeModel("one.safetensors", lowvram=True)
    fake.data.sd_model = model
    fake.lowvram.module_in_gpu = model
    with WebuiHost().lend_gpu():
        assert fake.lowvram.module_in_gpu is None
    assert fake.data.sd_model is model and fake.loads == []


def test_no_model_loaded_yet_stays_so(fake: Fake) -> None:
    with WebuiHost().lend_gpu():
        pass
    assert fake.loads == [] and fake.data.sd_model is None and not fake.data.was_loaded_at_least_once


@pytest.mark.parametrize("generation", ["", REFUSE])
@pytest.mark.parametrize("model", ["", KEEP_IN_RAM])
def test_an_error_inside_gives_everything_back(fake: Fake, generation: str, model: str) -> None:
    fake.options.data |= {"lora_train_generation": generation, "lora_train_model": model}
    before = fake.load_model(fake.info)
    onchange = fake.options.data_labels["sd_model_checkpoint"].onchange
    host, lock = WebuiHost(), fake.call_queue.queue_lock
    fake.loads.clear()
    with pytest.raises(ValueError, match="training failed"), host.lend_gpu():
        assert type(lock) is not FIFOLock and fake.state.job == "lora_train"
        raise ValueError("training failed")
    assert fake.loads == ([] if model else ["one.safetensors"])
    assert (fake.data.sd_model is before) is bool(model) and fake.data.was_loaded_at_least_once
    assert not any(p.is_meta for p in fake.data.sd_model.parameters())
    assert type(lock) is FIFOLock and lock.acquire(blocking=False)
    assert fake.state.job == "" and fake.options.data_labels["sd_model_checkpoint"].onchange is onchange
    host.report_progress("run1", 1, 2, "late")
    assert fake.progress.current_task is None


def test_a_checkpoint_that_does_not_come_back_is_told_and_generation_goes_on(fake: Fake) -> None:
    fake.load_model(fake.info)
    notes: list[str] = []

    def broken(_info: Any) -> None:
        raise FileNotFoundError("one.safetensors was deleted")

    fake.sd_models.load_model = broken
    with WebuiHost().lend_gpu(note=notes.append):
        pass
    assert "could not be loaded again (one.safetensors was deleted)" in notes[-1]
    assert fake.data.sd_model is None and not fake.data.was_loaded_at_least_once  # loaded at the next picture
    assert fake.call_queue.queue_lock.acquire(blocking=False)


def test_pictures_wait_for_the_training_and_the_training_for_pictures(fake: Fake) -> None:
    order: list[str] = []
    lock, lent, go_on = fake.call_queue.queue_lock, threading.Event(), threading.Event()
    lock.acquire()  # a picture is being made

    def train() -> None:
        with WebuiHost().lend_gpu():
            order.append("training")
            lent.set()
            go_on.wait(10)
            order.append("trained")

    def picture() -> None:
        with lock:
            order.append("picture")

    training, later = threading.Thread(target=train), threading.Thread(target=picture)
    for thread in (training, later):
        thread.start()
        assert lock.waits.acquire(timeout=10)
    assert order == []
    lock.release()
    assert lent.wait(10) and order == ["training"]
    go_on.set()
    training.join(10)
    later.join(10)
    assert order == ["training", "trained", "picture"]


def test_waiting_for_its_turn_can_be_stopped(fake: Fake) -> None:
    lock = fake.call_queue.queue_lock
    lock.acquire()
    with pytest.raises(Stopped), WebuiHost().lend_gpu(stopped=lambda: True):
        pass
    waiting = [thread for thread in threading.enumerate() if thread.name == "lora-train waits for a turn"]
    assert waiting, "nobody waits for a lock that cannot be waited for otherwise"
    lock.release()
    for thread in waiting:
        thread.join(10)
    assert lock.acquire(blocking=False), "the place in the queue was not given up"


def test_refusing_by_setting(fake: Fake) -> None:
    fake.options.lora_train_generation = REFUSE
    lock = fake.call_queue.queue_lock
    with WebuiHost().lend_gpu():
        with pytest.raises(GenerationRefused):
            lock.acquire(blocking=False)  # whoever is not refused would wait for ever below
        with pytest.raises(GenerationRefused, match="A LoRA is being trained") as caught, lock:
            pass
    assert caught.value.status_code == 503 and caught.value.detail
    with lock:
        pass
    assert type(lock).__name__ == "FIFOLock"


def test_progress_is_the_webuis_own(fake: Fake) -> None:
    host = WebuiHost()
    with host.lend_gpu():
        host.report_progress("run1", 3, 10, "Training")
        assert fake.progress.current_task == "task(lora_train-run1)"
        assert (fake.state.sampling_step, fake.state.sampling_steps, fake.state.job_count) == (3, 10, 1)
    assert fake.progress.current_task is None
    host.report_progress("run1", 4, 10, "late")
    assert fake.progress.current_task is None


def test_captions_and_tags_load_once_and_unload(fake: Fake) -> None:
    host = WebuiHost()
    assert list(host.caption(_pictures(), "blip")) == [f"a picture of {16 + n} pixels" for n in range(3)]
    assert fake.interrogator.loads == 1
    assert list(host.caption(_pictures(2), "deepbooru")) == ["1girl, solo"] * 2
    assert fake.deepbooru.model.starts == 1


def test_captioning_stops_half_way_and_still_unloads(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    unloaded: list[bool] = []
    monkeypatch.setattr("lora_train.hosts.lending.unload_helpers", lambda keep: unloaded.append(keep))
    captions: Any = WebuiHost().caption(_pictures(), "blip")  # a generator
    next(captions)
    assert fake.call_queue.queue_lock.acquire(blocking=False), "others may work between two pictures"
    fake.call_queue.queue_lock.release()
    captions.close()
    assert unloaded == [True]


def test_a_captioner_that_fails_says_what_to_do(fake: Fake) -> None:
    def fails() -> None:
        raise FileNotFoundError("no weights")

    fake.interrogator.load = fails  # type: ignore[method-assign]
    with pytest.raises(LoraTrainError, match="no weights.*Its model may be missing"):
        list(WebuiHost().caption(_pictures(), "blip"))


def test_an_older_webui_without_a_function_is_told_and_gets_all_back(fake: Fake) -> None:
    fake.shared.interrogator = SimpleNamespace(load=lambda: None)
    with pytest.raises(LoraTrainError, match="has no blip.*generate_caption"):
        list(WebuiHost().caption(_pictures(), "blip"))
    model = fake.load_model(fake.info)
    del fake.sd_models.send_model_to_trash
    with pytest.raises(LoraTrainError, match="lacks something.*send_model_to_trash"), WebuiHost().lend_gpu():
        pass
    assert fake.data.sd_model is not None and fake.data.sd_model is not model
    assert fake.call_queue.queue_lock.acquire(blocking=False)


def test_restoring_faces(fake: Fake) -> None:
    restored = list(WebuiHost().restore_faces(_pictures(2), 0.5))
    assert restored[0].getpixel((0, 0)) == (100, 50, 25)
    fake.shared.face_restorers[:] = [Restorer(has_weights=False)]
    with pytest.raises(LoraTrainError, match="weights are missing"):
        list(WebuiHost().restore_faces(_pictures(1), 0.5))
    fake.shared.face_restorers.clear()
    with pytest.raises(LoraTrainError, match="no face restoration"):
        list(WebuiHost().restore_faces(_pictures(1), 0.5))


def test_upscaling(fake: Fake) -> None:
    assert next(iter(WebuiHost().upscale(_pictures(1), 2, ""))).size == (32, 32)
    with pytest.raises(LoraTrainError, match="no upscaler 'SwinIR_4x'.*there: Lanczos"):
        list(WebuiHost().upscale(_pictures(1), 2, "SwinIR_4x"))


def test_paths_are_free_at_home_and_fenced_when_exposed(fake: Fake, tmp_path: Path) -> None:
    host, outside = WebuiHost(), tmp_path.parent / "elsewhere"
    assert host.may_read(outside)
    fake.commands.listen = True
    assert not host.may_read(outside) and not host.may_read(tmp_path / ".." / "elsewhere")
    assert host.may_read(tmp_path / "pictures") and host.may_read(host.lora_dir() / "x.safetensors")
    fake.options.lora_train_readable = f"{outside}, /nowhere"
    assert host.may_read(outside / "deeper")


@pytest.mark.parametrize("option", ["share", "listen", "ngrok", "server_name", "hide_ui_dir_config"])
def test_every_way_to_be_reached_from_elsewhere_fences_paths(fake: Fake, tmp_path: Path, option: str) -> None:
    outside = tmp_path.parent / "elsewhere"
    assert WebuiHost().may_read(outside)
    setattr(fake.commands, option, "a-token" if option == "ngrok" else "0.0.0.0" if option == "server_name" else True)
    assert not WebuiHost().may_read(outside) and WebuiHost().may_read(tmp_path / "pictures")
    fake.commands.gradio_allowed_path = [str(outside)]
    assert WebuiHost().may_read(outside / "deeper")


def test_a_link_leads_where_it_leads(fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Into the allowed folders and out of them, for reading and for writing."""
    outside = tmp_path.parent / f"{tmp_path.name}-outside"
    outside.mkdir()
    (tmp_path / "out").symlink_to(outside)
    (outside / "in").symlink_to(tmp_path)
    fake.commands.listen = True
    for may in (WebuiHost().may_read, WebuiHost().may_write):
        assert not may(tmp_path / "out") and not may(tmp_path / "out" / "deeper" / "a.png")
        assert may(outside / "in" / "a.png")
        monkeypatch.setenv("HOME", str(tmp_path))
        assert may(Path("~/a.png")) and not may(Path("~/out/a.png"))


def test_a_lora_goes_below_the_webuis_folders_only(fake: Fake, tmp_path: Path) -> None:
    """Also at home, where everything may be read."""
    host, outside = WebuiHost(), tmp_path.parent / "elsewhere"
    assert host.may_read(outside) and not host.may_write(outside)
    assert host.may_write(host.lora_dir() / "new") and not host.may_write(host.lora_dir() / ".." / ".." / ".." / "x")
    fake.options.lora_train_readable = str(outside)
    assert host.may_write(outside / "deeper")


def test_a_program_is_run_only_where_the_settings_allow_it(fake: Fake) -> None:
    assert not WebuiHost().may_run_programs()
    fake.options.lora_train_programs = True
    assert WebuiHost().may_run_programs()
    fake.commands.disable_extension_access = True  # others can reach it, and the settings
    assert not WebuiHost().may_run_programs()


def test_settings_have_defaults_and_survive_nonsense(fake: Fake) -> None:
    settings = WebuiHost().settings()
    assert {s.key: settings[s.key] for s in SETTINGS} == {s.key: s.default for s in SETTINGS}
    assert Settings(SimpleNamespace(lora_train_generation="?", lora_train_state_minutes=None))["generation"]
    assert Settings(SimpleNamespace(lora_train_state_minutes=""))["state_minutes"] == 2.0
    with pytest.raises(KeyError):
        settings["unheard of"]


def test_a_lora_that_was_overwritten_while_applied_is_taken_off(fake: Fake, tmp_path: Path) -> None:
    model = fake.load_model(fake.info)
    file = tmp_path / "sara.safetensors"
    network = SimpleNamespace(network_on_disk=SimpleNamespace(filename=str(file)))
    restored: list[Any] = []
    listed: list[bool] = []
    networks = fake.module(
        "networks",
        loaded_networks=[network],
        networks_in_memory={"sara": network},
        network_restore_weights_from_backup=restored.append,
        list_available_networks=lambda: listed.append(True),
    )
    model.layer.network_current_names = (("sara", 1.0),)
    WebuiHost().refresh_loras(tmp_path / "other.safetensors")
    assert restored == [] and listed == [True]
    WebuiHost().refresh_loras(file)
    assert restored == [model.layer] and model.layer.network_current_names == ()
    assert networks.loaded_networks == [] and networks.networks_in_memory == {}


class TestLogin:
    app = SimpleNamespace(auth={"a": "b"}, tokens={"good": "a"})

    def test_open_without_any_login(self) -> None:
        assert Login(SimpleNamespace(auth=None, tokens={})).allows({}, {}, {})

    def test_gradio_cookie(self) -> None:
        login = Login(self.app)
        assert not login.allows({}, {}, {})
        assert login.allows({}, {"access-token-unsecure": "good"}, {})
        assert not login.allows({}, {"access-token-unsecure": "bad"}, {})
        assert not login.allows({}, {"other": "good"}, {})

    def test_api_login(self) -> None:
        login = Login(SimpleNamespace(auth=None), "user:pass:word")
        good = {"authorization": "Basic dXNlcjpwYXNzOndvcmQ="}
        assert login.allows(good, {}, {})
        for bad in ("Basic dXNlcjp4", "Basic ???", "Bearer x", ""):
            assert not login.allows({"authorization": bad}, {}, {})

    def test_the_pages_token(self) -> None:
        login = Login(self.app, api_open=lambda: False)
        assert login.allows({PAGE_HEADER: login.page_token}, {}, {})
        assert login.allows({}, {}, {"page": login.page_token})
        assert not login.allows({PAGE_HEADER: "guess"}, {"access-token": "good"}, {})

    def test_routes_answer_401(self, tmp_path: Path) -> None:
        from fastapi import FastAPI
        from fastapi.testclient import TestClient

        from lora_train.api.routes import routes
        from lora_train.hosts.standalone import StandaloneHost
        from lora_train.runs.service import Service

        login = Login(self.app)
        app = FastAPI()
        app.include_router(routes(Service(StandaloneHost(tmp_path)), login))
        client = TestClient(app)
        for path in ("/runs", "/runs/latest", "/runs/x/events", "/runs/x/samples/step1-0.png"):
            assert client.get(f"/lora-train/api/v1{path}").status_code == 401  # all: tests/api/test_every_route.py
        assert client.post("/lora-train/api/v1/runs", json={}).status_code == 401
        header = {PAGE_HEADER: login.page_token}
        assert client.get("/lora-train/api/v1/runs", headers=header).status_code == 200


class TestOurNetwork:
    """`<lora:...>` by ours, in a WebUI without the bundled extension."""

    @pytest.fixture
    def registry(self, fake: Fake) -> Any:
        base = type("ExtraNetwork", (), {"__init__": lambda self, name: setattr(self, "name", name)})
        module = fake.module(
            "modules.extra_networks", ExtraNetwork=base, extra_network_registry={}, extra_network_aliases={}
        )
        module.register_extra_network = lambda n: module.extra_network_registry.__setitem__(n.name, n)
        module.register_extra_network_alias = lambda n, a: module.extra_network_aliases.__setitem__(a, n)
        fake.module("modules.script_callbacks", on_model_loaded=lambda _f: None)
        return module

    def test_who_applies(self, fake: Fake, registry: Any, tmp_path: Path) -> None:
        from lora_train.hosts.extra_network import install

        install(APPLY_HOST, lambda: tmp_path)()
        assert registry.extra_network_registry == {}
        undo = install(APPLY_AUTO, lambda: tmp_path)
        assert "lora" in registry.extra_network_registry and "lyco" in registry.extra_network_aliases
        undo()
        assert registry.extra_network_registry == {} and registry.extra_network_aliases == {}
        theirs = SimpleNamespace(name="lora")
        registry.register_extra_network(theirs)
        install(APPLY_AUTO, lambda: tmp_path)
        assert registry.extra_network_registry["lora"] is theirs
        undo = install(APPLY_OURS, lambda: tmp_path)
        assert registry.extra_network_registry["lora"] is not theirs
        undo()
        assert registry.extra_network_registry["lora"] is theirs

    def test_it_changes_the_loaded_models_weights_and_puts_them_back(
        self, fake: Fake, registry: Any, tmp_path: Path
    ) -> None:
        from lora_train.hosts.extra_network import make_network
        from tests.hosts.ldm_model import ldm_model, write_lora_for

        model = ldm_model()
        fake.shared.sd_model = model
        names = write_lora_for(model, tmp_path / "sara.safetensors")
        assert any(n.startswith("lora_unet_down_blocks_1_attentions_0") for n in names)
        before = {k: v.clone() for k, v in model.state_dict().items()}
        network = make_network(lambda: tmp_path)
        told: list[str] = []
        p = SimpleNamespace(comment=told.append, extra_generation_params={})
        network.activate(p, [SimpleNamespace(items=["sara", "0.5"]), SimpleNamespace(items=["nobody", "1"])])
        changed = [k for k, v in model.state_dict().items() if not torch.equal(v, before[k])]
        assert len(changed) == len(names)
        assert len(told) == 1 and "nobody" in told[0]
        assert p.extra_generation_params["Lora hashes"].startswith("sara: ")
        network.activate(p, [])
        assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
        network.activate(p, [SimpleNamespace(items=["sara", "1"])])
        network.forget()  # another checkpoint was loaded into the same modules
        loaded = {k: v.clone() for k, v in model.state_dict().items()}
        network.activate(p, [])
        assert all(torch.equal(v, loaded[k]) for k, v in model.state_dict().items())

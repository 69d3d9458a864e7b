"""What a person does in the WebUI while a LoRA trains: another checkpoint, Interrupt on a picture that waits."""

from __future__ import annotations

import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lora_train.hosts.queueing import GenerationRefused
from lora_train.hosts.settings import KEEP_IN_RAM, REFUSE
from lora_train.hosts.webui import WebuiHost
from tests.hosts.fake_webui import Fake


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Fake:
    return Fake(monkeypatch, tmp_path)


@pytest.fixture
def two(fake: Fake, tmp_path: Path) -> Any:
    made = SimpleNamespace(filename=str(tmp_path / "models" / "two.safetensors"), title="two.safetensors")
    fake.sd_models.checkpoint_aliases["two.safetensors"] = made
    fake.load_model(fake.info)
    fake.loads.clear()
    return made


def test_the_base_is_the_chosen_checkpoint_even_before_it_is_loaded(fake: Fake, two: Any) -> None:
    fake.options.data["sd_model_checkpoint"] = "two.safetensors"
    assert WebuiHost().current_checkpoint() == Path(two.filename)
    fake.options.data["sd_model_checkpoint"] = "nobody.safetensors"
    assert WebuiHost().current_checkpoint() == Path(fake.info.filename)


@pytest.mark.parametrize("generation", ["", REFUSE])
@pytest.mark.parametrize("model", ["", KEEP_IN_RAM])
def test_another_checkpoint_chosen_meanwhile_is_there_afterwards(
    fake: Fake, two: Any, generation: str, model: str
) -> None:
    fake.options.data |= {"lora_train_generation": generation, "lora_train_model": model}
    before = fake.options.data_labels["sd_model_checkpoint"].onchange
    notes: list[str] = []
    with WebuiHost().lend_gpu(note=notes.append):
        assert fake.options.set("sd_model_checkpoint", "two.safetensors"), "the page would hang, or be refused"
        assert fake.loads == []
    assert fake.data.sd_model.sd_checkpoint_info.filename == two.filename and fake.loads == ["two.safetensors"]
    assert fake.options.sd_model_checkpoint == "two.safetensors"
    assert any("'Stable Diffusion checkpoint' was changed" in note for note in notes)
    assert fake.options.data_labels["sd_model_checkpoint"].onchange is before


def test_one_that_is_chosen_while_the_other_is_loaded_wins(fake: Fake, two: Any) -> None:
    plain = fake.sd_models.load_model

    def slow(info: Any) -> None:
        fake.options.data["sd_model_checkpoint"] = "two.safetensors"
        plain(info)

    fake.sd_models.load_model = slow
    with WebuiHost().lend_gpu():
        pass
    assert fake.options.sd_model_checkpoint == "two.safetensors"


def test_one_that_cannot_be_loaded_is_told_and_the_old_one_is_back(fake: Fake, two: Any) -> None:
    plain, notes = fake.sd_models.load_model, list[str]()

    def load(info: Any) -> None:
        if info is two:
            raise ValueError("no checkpoint")
        plain(info)

    fake.sd_models.load_model = load
    with WebuiHost().lend_gpu(note=notes.append):
        fake.options.set("sd_model_checkpoint", "two.safetensors")
    assert fake.data.sd_model.sd_checkpoint_info.filename == fake.info.filename
    assert fake.options.sd_model_checkpoint == "one.safetensors"
    assert "two.safetensors could not be loaded (no checkpoint); one.safetensors is back" in notes[-1]


def test_a_setting_that_fails_afterwards_is_told(fake: Fake, two: Any) -> None:
    def wrap_queued_call(_func: Any) -> Any:
        def f() -> None:
            raise ValueError("no such VAE")

        return f

    f = wrap_queued_call(None)
    f.__qualname__ = "wrap_queued_call.<locals>.f"
    fake.options.data_labels["sd_vae"] = SimpleNamespace(label="SD VAE", onchange=f)
    notes: list[str] = []
    with WebuiHost().lend_gpu(note=notes.append):
        assert fake.options.set("sd_vae", "x")
    assert "'SD VAE' could not be applied (no such VAE)" in notes[-1]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> threading.Semaphore:
    """Counts up whenever one who waits has asked whether it was interrupted."""
    count, interrupted = threading.Semaphore(0), WebuiHost._interrupted

    def spy(self: WebuiHost) -> bool:
        found = interrupted(self)
        count.release()
        return found

    monkeypatch.setattr(WebuiHost, "_interrupted", spy)
    return count


def ask_again(asked: threading.Semaphore) -> None:
    """Wait until whoever waits has asked from now on, whatever was asked before."""
    while asked.acquire(blocking=False):
        pass
    for _ in range(3):
        assert asked.acquire(timeout=10)


def test_interrupt_ends_a_picture_that_waits_and_nothing_else(fake: Fake, two: Any, asked: threading.Semaphore) -> None:
    made: list[str] = []
    failed: list[Exception] = []

    def picture(task: str) -> None:
        try:
            fake.picture(task, made)
        except GenerationRefused as error:
            failed.append(error)

    host = WebuiHost()
    with host.lend_gpu():
        fake.state.interrupted = True  # nobody waits: it is about nothing
        first = threading.Thread(target=picture, args=("task(one)",))
        first.start()
        ask_again(asked)
        assert first.is_alive() and not failed
        fake.state.interrupted = True
        first.join(10)
        assert "Interrupted while waiting" in str(failed[0])
        assert fake.progress.pending_tasks == {} and fake.progress.finished_tasks == ["task(one)"]
        assert not fake.state.interrupted
        host.report_progress("run1", 3, 10, "")
        assert fake.state.job == "lora_train" and fake.progress.current_task == "task(lora_train-run1)"
        second = threading.Thread(target=picture, args=("task(two)",))
        second.start()
        ask_again(asked)
        assert second.is_alive() and not made
    second.join(10)
    assert made == ["task(two)"] and len(failed) == 1
    picture("task(three)")
    assert made == ["task(two)", "task(three)"]


def test_one_that_waited_before_the_training_can_be_interrupted_too(
    fake: Fake, two: Any, asked: threading.Semaphore
) -> None:
    lock, failed, lent, go_on = fake.call_queue.queue_lock, [], threading.Event(), threading.Event()
    lock.acquire()

    def train() -> None:
        with WebuiHost().lend_gpu():
            lent.set()
            go_on.wait(10)

    def picture() -> None:
        try:
            fake.picture("task(one)", [])
        except GenerationRefused as error:
            failed.append(error)

    threads = [threading.Thread(target=train), threading.Thread(target=picture)]
    for thread in threads:
        thread.start()
        assert lock.waits.acquire(timeout=10)
    fake.state.interrupted = True  # of the picture that is being made now
    ask_again(asked)
    assert fake.state.interrupted and not failed
    fake.state.interrupted = False
    lock.release()
    assert lent.wait(10)
    fake.state.interrupted = True
    threads[1].join(10)
    assert len(failed) == 1
    go_on.set()
    threads[0].join(10)


def test_the_progress_bar_of_a_refused_picture_ends(fake: Fake, two: Any) -> None:
    fake.options.data["lora_train_generation"] = REFUSE
    with WebuiHost().lend_gpu(), pytest.raises(GenerationRefused):
        fake.picture("task(one)", [])
    assert fake.progress.pending_tasks == {} and fake.progress.finished_tasks[0] == "task(one)"

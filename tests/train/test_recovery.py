"""When memory runs out the same step is computed again with less: the result is that of a run that asked for less."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import pytest
import torch

from lora_train.config import NetworkOptions, RunConfig
from lora_train.errors import LoraTrainError
from lora_train.memory import is_out_of_memory
from lora_train.train import loop
from lora_train.train.loop import Callbacks, StepReport, Trainer
from lora_train.train.recovery import eased
from tests.train.smallest import open_tiny
from tests.train.test_whole_step import DATA, OPTIONS, Shown, dataset_of
from tests.train.test_whole_step import shown as shown

STEPS = 8
NETWORK = NetworkOptions(network_dim=4, network_alpha=2.0, network_dropout=0.3, rank_dropout=0.2, module_dropout=0.2)
FULL = "CUDA out of memory. Tried to allocate 2.00 GiB"


def _trainer(shown: list[Shown], batch: int = 4, **train: Any) -> tuple[Trainer, list[str], list[StepReport]]:
    options = replace(OPTIONS, min_snr_gamma=5.0, preserve=0.5, max_train_steps=STEPS, **train)
    config = RunConfig(data=replace(DATA, train_batch_size=batch), network=NETWORK, train=options)
    trainer = Trainer(config, open_tiny("v_prediction"), dataset_of(shown), trigger="sks")
    said: list[str] = []
    reports: list[StepReport] = []
    trainer.callbacks = Callbacks(reports.append, eased=said.append)
    return trainer, said, reports


def _weights(trainer: Trainer) -> torch.Tensor:
    trainer.run()
    trainer.network.detach()
    return torch.cat([parameter.detach().flatten() for parameter in trainer.network.parameters()])


def _close(found: torch.Tensor, expected: torch.Tensor) -> bool:
    """Up to rounding, which Adam turns into whole steps where a gradient is next to nothing."""
    return float((found - expected).norm() / expected.norm()) < 1e-4


def _fail_at(monkeypatch: pytest.MonkeyPatch, trainer: Trainer, *places: tuple[int, int]) -> None:
    """Raise in (step, call of backward in it), after that call has left its gradients."""
    left, calls, plain = list(places), {"step": -1, "count": 0}, loop.backward

    def backward(*given: Any) -> torch.Tensor:
        losses = plain(*given)
        if trainer.steps_done != calls["step"]:
            calls.update(step=trainer.steps_done, count=0)
        calls["count"] += 1
        if (trainer.steps_done + 1, calls["count"]) in left:
            left.remove((trainer.steps_done + 1, calls["count"]))
            raise torch.cuda.OutOfMemoryError(FULL)
        return losses

    monkeypatch.setattr(loop, "backward", backward)


def test_a_batch_in_parts_is_the_same_step(shown: list[Shown]) -> None:
    """Noise, times, captions, dropout of every picture and the mean over all, whatever passes at once."""
    whole = _weights(_trainer(shown)[0])
    for at_once in (1, 3):
        assert _close(_weights(_trainer(shown, micro_batch_size=at_once)[0]), whole)


def test_a_step_that_ran_out_of_memory_is_repeated_with_less(
    shown: list[Shown], monkeypatch: pytest.MonkeyPatch
) -> None:
    """At step 3 in the second row, whose first has left gradients; at step 7 again. No step is lost or done twice."""
    asked = _weights(_trainer(shown, micro_batch_size=1)[0])
    trainer, said, reports = _trainer(shown)
    _fail_at(monkeypatch, trainer, (3, 2), (7, 1))
    assert _close(_weights(trainer), asked)
    assert [report.step for report in reports] == list(range(1, STEPS + 1))
    assert said == [
        "There was not enough memory for step 3. It is repeated with 2 of the 4 pictures of a batch at once instead of "
        "4; the result is the same.",
        "There was not enough memory for step 7. It is repeated with 1 of the 4 pictures of a batch at once instead of "
        "2; the result is the same.",
    ]
    assert trainer.config.train.micro_batch_size == 1


def test_with_one_picture_left_activations_are_computed_again(
    shown: list[Shown], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = _weights(_trainer(shown, batch=1)[0])
    trainer, said, _ = _trainer(shown, batch=1)
    _fail_at(monkeypatch, trainer, (2, 1))
    assert _close(_weights(trainer), asked)
    assert trainer.config.train.gradient_checkpointing and "gradient checkpointing" in said[0]


@pytest.mark.skipif(not hasattr(torch, "float8_e4m3fn"), reason="this torch has no fp8")
def test_at_last_the_base_is_stored_in_fp8(shown: list[Shown], monkeypatch: pytest.MonkeyPatch) -> None:
    """The networks stay on its layers, and the run goes on as one that had asked for it would, from that step on."""
    trainer, said, _ = _trainer(shown, batch=1, gradient_checkpointing=True)
    _fail_at(monkeypatch, trainer, (1, 1))
    found = _weights(trainer)
    assert trainer.config.train.base_precision == "fp8" and "stored in fp8" in said[0]
    asked = _weights(_trainer(shown, batch=1, gradient_checkpointing=True, base_precision="fp8")[0])
    assert _close(found, asked)


def test_when_nothing_is_left_the_run_ends_with_what_to_do(shown: list[Shown], monkeypatch: pytest.MonkeyPatch) -> None:
    trainer, _, reports = _trainer(shown, batch=1, gradient_checkpointing=True, base_precision="fp8")
    _fail_at(monkeypatch, trainer, (2, 1))
    with pytest.raises(LoraTrainError, match="not enough memory, even for one picture"):
        trainer.run()
    assert len(reports) == 1


def test_an_optimizer_that_fails_halfway_in_its_first_step_changed_nothing(
    shown: list[Shown], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It allocates its state there. Some weights were changed, and some have their state."""
    asked = _weights(_trainer(shown, micro_batch_size=2)[0])
    trainer, said, _ = _trainer(shown)
    plain, failed = trainer.optimizer.step, list[bool]()

    def step(*given: Any) -> Any:
        result = plain(*given)
        if not failed:
            failed.append(True)
            raise torch.cuda.OutOfMemoryError(FULL)
        return result

    monkeypatch.setattr(trainer.optimizer, "step", step)
    assert _close(_weights(trainer), asked)
    assert failed and "step 1" in said[0]


def test_one_that_fails_later_is_not_guessed_at(shown: list[Shown], monkeypatch: pytest.MonkeyPatch) -> None:
    trainer, _, reports = _trainer(shown)
    plain = trainer.optimizer.step

    def step(*given: Any) -> Any:
        result = plain(*given)
        if trainer.steps_done == 2:
            raise torch.cuda.OutOfMemoryError(FULL)
        return result

    monkeypatch.setattr(trainer.optimizer, "step", step)
    with pytest.raises(LoraTrainError, match="resume the run"):
        trainer.run()
    assert len(reports) == 2


def test_other_errors_are_not_memory(shown: list[Shown], monkeypatch: pytest.MonkeyPatch) -> None:
    trainer, said, _ = _trainer(shown)
    monkeypatch.setattr(loop, "backward", lambda *given: pytest.fail("wrong shape"))
    with pytest.raises(pytest.fail.Exception):
        trainer.run()
    assert not said


@pytest.mark.parametrize(
    ("error", "is_it"),
    [
        (torch.cuda.OutOfMemoryError(FULL), True),
        (RuntimeError("MPS backend out of memory (MPS allocated: 5 GB)"), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:114] DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 17 bytes."), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)"), True),
        (MemoryError(), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("out of memory"), False),
        (LoraTrainError("there is not enough memory."), False),
    ],
)
def test_what_counts_as_out_of_memory(error: Exception, is_it: bool) -> None:
    assert is_out_of_memory(error) is is_it


@pytest.mark.parametrize(("batch", "halves"), [(8, [4, 2, 1]), (5, [3, 2, 1]), (1, [])])
def test_the_pictures_at_once_are_halved_down_to_one(batch: int, halves: list[int]) -> None:
    config, found = RunConfig(), list[int]()
    while True:
        config = eased(config, batch).config
        if config.train.gradient_checkpointing:
            break
        found.append(config.train.micro_batch_size or 0)
    assert found == halves


def test_text_encoders_wait_outside_and_encode_ahead(shown: list[Shown], monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU: they come in once for the captions of all steps, and the training is the same."""
    only_unet = replace(NETWORK, network_train_unet_only=True)
    found = []
    for waits in (False, True):
        first, _, _ = _trainer(shown)
        trainer = Trainer(replace(first.config, network=only_unet), first.model, first.dataset, trigger="sks")
        trainer._texts_wait = waits
        events = _watched(monkeypatch, trainer)
        found.append(_weights(trainer))
        at_work = [event for event in events if event != "out"]
        if waits:
            assert at_work[0] == "in" and at_work[-1] == "back" and at_work.count("in") == 1
            assert events[0] == "out" and set(at_work[1:-1]) == {"encode"}
    assert torch.equal(*found)


def test_the_texts_of_the_base_are_not_those_of_a_trained_encoder(shown: list[Shown]) -> None:
    """After the encoder has stopped, its network counts for the row that learns, and not for the base's own."""
    trainer, _, _ = _trainer(shown, stop_text_encoder_training=2)
    _weights(trainer)
    trainer.network.attach()
    with torch.no_grad():
        learned = trainer._encode(["one"])["states"]
        with trainer.network.at(0.0):
            base = trainer._encode(["one"])["states"]
    trainer.network.detach()
    assert torch.allclose(base, trainer.model.encode_text(["one"])["states"], atol=1e-6)
    assert not torch.allclose(base, learned, atol=1e-6)


def _watched(monkeypatch: pytest.MonkeyPatch, trainer: Trainer) -> list[str]:
    """What happens to the text encoders, in order."""
    events: list[str] = []

    @contextmanager
    def at_work() -> Iterator[None]:
        events.append("in")
        yield
        events.append("back")

    def encode_text(captions: Any, clip_skip: int = 1) -> Any:
        events.append("encode")
        with monkeypatch.context() as plain:
            plain.setattr(trainer.model, "texts_at_work", nullcontext)
            return type(trainer.model).encode_text(trainer.model, captions, clip_skip)

    monkeypatch.setattr(trainer.model, "texts_to", lambda device: events.append("out"))
    monkeypatch.setattr(trainer.model, "texts_at_work", at_work)
    monkeypatch.setattr(trainer.model, "encode_text", encode_text)
    return events

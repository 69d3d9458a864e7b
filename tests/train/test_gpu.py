"""What only CUDA shows, in small; `bench/gpu.py` measures it at full size. Skipped where there is no such GPU."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from lora_train.config import RunConfig
from lora_train.train import loop
from lora_train.train.loop import Callbacks, StepReport, Trainer
from tests.train.smallest import open_tiny
from tests.train.test_whole_step import DATA, NETWORK, OPTIONS, Shown, dataset_of
from tests.train.test_whole_step import shown as shown

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
]
STEPS = 6


def trained(shown: list[Shown], device: str = "cuda", **train: Any) -> tuple[list[StepReport], Trainer]:
    options = replace(OPTIONS, device=device, max_train_steps=STEPS, **train)
    trainer = Trainer(RunConfig(data=DATA, network=NETWORK, train=options), open_tiny("epsilon"), dataset_of(shown))
    reports: list[StepReport] = []
    trainer.callbacks = Callbacks(reports.append)
    trainer.run()
    trainer.network.detach()
    return reports, trainer


def weights(trainer: Trainer) -> torch.Tensor:
    return torch.cat([value.detach().flatten().cpu() for value in trainer.network.parameters()])


def test_fp32_gives_the_cpus_losses(shown: list[Shown]) -> None:
    there, here = trained(shown, speedups_off=("tf32",))[0], trained(shown, "cpu")[0]
    assert [one.loss for one in there] == pytest.approx([one.loss for one in here], rel=1e-3)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_follows_fp32(shown: list[Shown], precision: str) -> None:
    half, whole = trained(shown, mixed_precision=precision)[0], trained(shown)[0]
    assert [one.step for one in half] == list(range(1, STEPS + 1))
    assert [one.loss for one in half] == pytest.approx([one.loss for one in whole], rel=0.1)
    assert not half[-1].skipped and half[-1].grad_norm > 0


@pytest.mark.parametrize("name", ["late-loss", "channels-last", "benchmark", "buffers", "casts", "sums", "half"])
def test_a_technique_changes_nothing_but_the_speed(shown: list[Shown], name: str) -> None:
    with_it, without = (trained(shown, mixed_precision="bf16", speedups_off=off)[0] for off in ((), (name,)))
    assert [one.loss for one in with_it] == pytest.approx([one.loss for one in without], rel=0.02)


def test_a_deterministic_run_has_the_same_bits_after_a_resume(shown: list[Shown], tmp_path: Path) -> None:
    _, whole = trained(shown, deterministic=True)
    _, first = trained(shown, deterministic=True)
    assert torch.equal(weights(whole), weights(first))
    options = replace(OPTIONS, device="cuda", max_train_steps=STEPS, deterministic=True)
    config = RunConfig(data=DATA, network=NETWORK, train=options)
    parts = [Trainer(config, open_tiny("epsilon"), dataset_of(shown)) for _ in range(2)]
    parts[0].callbacks.stopped = lambda: parts[0].steps_done == 3
    parts[0].run()
    parts[0].network.detach()
    parts[0].write_state(tmp_path / "state.safetensors")
    assert parts[1].read_state(tmp_path / "state.safetensors")
    parts[1].run()
    parts[1].network.detach()
    assert torch.equal(weights(whole), weights(parts[1]))


def test_memory_that_runs_out_repeats_the_step(shown: list[Shown], monkeypatch: pytest.MonkeyPatch) -> None:
    plain, calls = loop.backward, [0]

    def backward(*given: Any) -> torch.Tensor:
        calls[0] += 1
        if calls[0] == 4:
            torch.empty(1 << 50, device="cuda")  # a petabyte
        return plain(*given)

    monkeypatch.setattr(loop, "backward", backward)
    reports, trainer = trained(shown)
    assert [one.step for one in reports] == list(range(1, STEPS + 1))
    assert trainer.config.train.micro_batch_size == 1

"""Which device computes, and in which precision, on machines that this one is not."""

from __future__ import annotations

import pytest
import torch

from lora_train.config import Facts, PrepareOptions, RunConfig, TrainOptions, problems, resolve
from lora_train.datasets.captioning import captioning_problems
from lora_train.device import fast_bf16, pick_device, require_precision
from lora_train.errors import LoraTrainError
from lora_train.hosts.standalone import StandaloneHost


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """A new card and an old one, on which torch emulates bf16."""
    capabilities = {"cuda": (8, 6), "cuda:0": (8, 6), "cuda:1": (7, 5)}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_, **__: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capabilities[str(device)])
    monkeypatch.setattr(torch.version, "hip", None)


def test_bf16_is_fast_from_compute_capability_8_on(two_gpus: None, monkeypatch: pytest.MonkeyPatch) -> None:
    assert fast_bf16("cuda") and fast_bf16("cuda:0")
    assert not fast_bf16("cuda:1") and not fast_bf16("cpu") and not fast_bf16("mps")
    for capability, fast in (((6, 1), False), ((7, 0), False), ((8, 0), True), ((8, 9), True), ((12, 0), True)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None, it=capability: it)
        assert fast_bf16("cuda") is fast


def test_amds_capabilities_mean_something_else(two_gpus: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "hip", "6.1")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_, **__: False)
    assert not fast_bf16("cuda")


@pytest.mark.parametrize(
    ("device", "fast", "expected"),
    [
        ("cuda", True, "bf16"),
        ("cuda:1", True, "bf16"),
        ("cuda", False, "fp16"),
        ("cuda:1", False, "fp16"),
        ("cpu", False, "fp32"),
        ("mps", False, "fp32"),
    ],
)
def test_the_precision_follows_the_device(device: str, fast: bool, expected: str) -> None:
    config, _ = resolve(RunConfig(), Facts(10, 512, device, fast))
    assert config.train.mixed_precision == expected and config.train.device == device


def test_any_gpu_by_its_number(two_gpus: None) -> None:
    assert pick_device("auto") == "cuda"
    for name in ("cuda", "cuda:0", "cuda:1", "cpu"):
        assert pick_device(name) == name
    assert pick_device(" CUDA:1 ") == "cuda:1"
    for name in ("cuda:2", "cuda:", "cuda:x", "cuda:-1", "gpu"):
        with pytest.raises(LoraTrainError, match="not there"):
            pick_device(name)


def test_auto_is_the_hosts_own_gpu(two_gpus: None) -> None:
    assert pick_device("auto", auto="cuda:1") == "cuda:1"
    assert pick_device("cuda:0", auto="cuda:1") == "cuda:0", "what a person asks for"


def test_torch_2_1_crashes_in_bf16_on_any_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "__version__", "2.1.2+cpu")
    for device in ("cpu", "cpu:0"):
        with pytest.raises(LoraTrainError, match="crashes"):
            require_precision(device, "bf16")
    require_precision("cuda:1", "bf16")


def test_captioners_too(two_gpus: None, tmp_path: object) -> None:
    def wrong(device: str) -> list[str]:
        prepare = PrepareOptions(operations=("interrogate",), caption_device=device)
        found = problems(RunConfig(prepare=prepare, train=TrainOptions())) + captioning_problems(
            prepare, StandaloneHost()
        )
        return [problem.what for problem in found if problem.where == "prepare.caption_device"]

    assert wrong("cuda:1") == wrong("auto") == wrong("cpu") == []
    assert len(wrong("gpu")) == 2 and len(wrong("cuda:9")) == 1

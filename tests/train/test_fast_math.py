"""How torch computes during a run on CUDA, and that the host's settings are back after it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from lora_train.config import TrainOptions
from lora_train.train.fast_math import CUBLAS, fast_math

CUDA = torch.device("cuda", 1)


def settings() -> dict[str, Any]:
    return {
        "tf32": (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32),
        "benchmark": torch.backends.cudnn.benchmark,
        "deterministic": (torch.backends.cudnn.deterministic, torch.are_deterministic_algorithms_enabled()),
    }


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, {"tf32": (True, True), "benchmark": True, "deterministic": (False, False)}),
        ({"speedups_off": ("tf32",)}, {"tf32": (False, False), "benchmark": True, "deterministic": (False, False)}),
        ({"speedups_off": ("benchmark",)}, {"tf32": (True, True), "benchmark": False, "deterministic": (False, False)}),
        ({"deterministic": True}, {"tf32": (True, True), "benchmark": False, "deterministic": (True, True)}),
    ],
    ids=["usual", "without tf32", "without benchmark", "deterministic"],
)
def test_settings_of_a_run_and_the_hosts_after_it(options: Any, expected: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(CUBLAS, raising=False)
    before = settings()
    with pytest.raises(KeyError), fast_math(TrainOptions(**options), CUDA):
        assert settings() == expected
        raise KeyError
    assert settings() == before


def test_a_cpu_is_left_alone() -> None:
    before = settings()
    with fast_math(TrainOptions(deterministic=True), torch.device("cpu")):
        assert settings() == before


def test_a_setting_that_cannot_be_read_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Newer torch refuses the old names of TF32's settings where the host has used the new ones."""

    class Refusing:
        def __getattr__(self, name: str) -> Any:
            raise RuntimeError("mix of the legacy and new APIs")

        def __setattr__(self, name: str, value: Any) -> None:
            pytest.fail("it was set")

    monkeypatch.setattr(torch.backends.cuda, "matmul", Refusing())
    with fast_math(TrainOptions(), CUDA):
        assert torch.backends.cudnn.benchmark

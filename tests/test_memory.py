"""A run's model is gone when its end is told, so that the WebUI's own fits in again."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from lora_train.config import RunConfig
from lora_train.errors import LoraTrainError
from lora_train.hosts.standalone import StandaloneHost
from lora_train.memory import forget
from lora_train.models import opening
from lora_train.networks.lora import LoraModule
from lora_train.runs.execute import run_training


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """Weak references to the models that were opened; the cyclic collector only runs where it is asked to."""
    models: list[Any] = []
    real = opening.open_model

    def open_model(*args: Any, **more: Any) -> Any:
        model: Any = real(*args, **more)
        models.append(weakref.ref(model.unet))
        return model

    monkeypatch.setattr(opening, "open_model", open_model)
    gc.disable()
    yield models
    gc.enable()


def test_after_a_run(opened: list[Any], make_config: Callable[..., RunConfig], host: StandaloneHost) -> None:
    run_training(make_config(), host)
    assert [model() for model in opened] == [None]


def test_after_a_failure(
    opened: list[Any],
    make_config: Callable[..., RunConfig],
    host: StandaloneHost,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In a network's hook, whose function refers to the base model, and with the error still in hand."""

    def fail(network: LoraModule, *_args: Any) -> None:
        raise RuntimeError("step 0")

    monkeypatch.setattr(LoraModule, "add_to", fail)
    with pytest.raises(LoraTrainError, match="step 0") as caught:
        run_training(make_config(), host)
    assert [model() for model in opened] == [None]
    assert caught.value.__cause__ is not None


def test_errors_that_are_each_others_reason_are_forgotten_once() -> None:
    first, second = ValueError("first"), ValueError("second")
    first.__cause__, second.__context__ = second, first
    for error in (first, second):
        try:
            raise error
        except ValueError:
            pass
    forget(first)
    assert first.__traceback__ is None and second.__traceback__ is None

"""The memory of a step, counted from shapes: what a person's card has to hold."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch

from lora_train.config import RunConfig
from lora_train.config.planner import Means
from lora_train.demo.files import base_folder
from lora_train.models.base import Frame
from lora_train.models.storing import store_base
from lora_train.train.footprint import Counter, Footprint, state_bytes
from lora_train.train.live_bytes import LiveBytes
from lora_train.train.network import build_network
from lora_train.train.predicting import Predictor
from lora_train.train.step import Draw, Row, backward
from tests.models.test_real_sizes import model_of
from tests.train.smallest import open_tiny

pytestmark = pytest.mark.skipif(torch.__version__.startswith("2.1."), reason="torch 2.1 cannot count")
SIDES = {"sd1": 512, "sdxl": 1024}


@cache
def _model(family: str) -> Any:
    """The family at its real size, on the meta device, with the shipped tokenizer."""
    from transformers import CLIPTokenizer

    model = model_of(family)
    tokenizer = CLIPTokenizer.from_pretrained(base_folder() / "tokenizer")
    model.tokenizers = [tokenizer] * len(model.text_encoders)
    return model


@cache
def _counter(family: str, kind: str = "lora", **more: Any) -> Counter:
    network = {"kind": kind, "network_dim": 16, "network_alpha": 16.0, "network_train_unet_only": True, **more}
    config = RunConfig.from_dict({"network": network, "train": {"mixed_precision": "bf16"}})
    return Counter(config, _model(family), ("lora_unet",))


@cache
def _counted(family: str, share: float = 0.0, kind: str = "lora", **more: Any) -> Footprint:
    side = SIDES[family]
    return _counter(family, kind, **more).count(1, side, side, share)


@pytest.mark.parametrize(
    ("family", "share", "base", "gigabytes"),
    [("sdxl", 1.0, "full", 7.2), ("sdxl", 1.0, "fp8", 5.0), ("sdxl", 1.0, "nf4", 3.6), ("sd1", 0.0, "full", 3.3)],
)
def test_what_fits_on_a_card(family: str, share: float, base: str, gigabytes: float) -> None:
    """One picture at the family's size, dimension 16, bf16, UNet only: SDXL with 8, 6 and 4 GB, SD 1.5 with 4 GB."""
    found = replace(_counted(family, share), base=_counter(family).base_bytes(base))
    assert 0.6 * gigabytes < found.peak / 1e9 <= gigabytes


@pytest.mark.parametrize("kind", ["loha", "lokr", "dora", "oft"])
def test_kinds_that_build_a_weight_need_little_more_than_lora(kind: str) -> None:
    more: dict[str, Any] = {"kind": "lora", "dora_wd": True} if kind == "dora" else {"kind": kind}
    assert _counted("sd1", **more).peak <= 1.3 * _counted("sd1").peak


def test_what_it_consists_of() -> None:
    """SD 1.5's UNet has 859,520,964 weights; its LoRA of dimension 16 has 6,782,976."""
    found = _counted("sd1")
    assert found.base == 2 * 859_520_964
    assert found.trained == 4 * 6_782_976
    assert found.state == pytest.approx(2 * found.trained, rel=0.01)
    assert found.peak == found.base + found.trained + found.state + found.step


SETTINGS = [
    (1, 256, 0.0, "full", "lora"),
    (2, 256, 1.0, "full", "lora"),
    (3, 128, 0.5, "fp8", "lora"),
    (1, 256, 0.0, "full", "loha"),
    (2, 128, 1.0, "fp8", "lokr"),
]


@pytest.mark.parametrize(("pictures", "side", "share", "base", "kind"), SETTINGS)
def test_the_prediction_is_what_a_real_step_holds(pictures: int, side: int, share: float, base: str, kind: str) -> None:
    """On the CPU, in fp32, every tensor of a step counted while it really runs. What kernels allocate inside is in
    neither."""
    network = {"kind": kind, "network_dim": 4, "network_alpha": 4.0, "network_train_unet_only": True}
    config = RunConfig.from_dict(
        {"network": network, "train": {"mixed_precision": "fp32"}, "data": {"resolution": side}}
    )
    model = open_tiny("epsilon")
    predicted = Predictor(model)(config, Means(pictures, share, base))
    built = build_network(config, model, ("lora_unet",), torch.Generator().manual_seed(0))
    store_base(model, base, torch.float32)
    if share:
        model.checkpoint_activations(share)
    built.network.attach()
    parameters = list(built.network.parameters())
    optimizer = torch.optim.AdamW(parameters)
    held = sum(
        one.numel() * one.element_size() for one in (*parameters, *model.unet.parameters(), *model.unet.buffers())
    )
    x = torch.randn(pictures, *model.latent_shape(side, side))
    states = {"states": torch.randn(pictures, 77, 128), "pooled": torch.randn(pictures, 48)}
    row = Row(x, ["a"] * pictures, extra=model.extra_inputs([Frame.whole(side, side)] * pictures))
    draw = Draw(torch.randn_like(x), torch.full((pictures,), 500), torch.ones(pictures))
    plain = torch.autocast("cpu", enabled=False)
    for _ in range(2):  # the optimizer's state is there from the second step on
        optimizer.zero_grad(set_to_none=True)
        with LiveBytes() as counted:
            backward(model, built.network, [row], draw, lambda _: states, lambda loss: loss, plain)
        held_now = held + sum(v.numel() * 4 for s in optimizer.state.values() for v in s.values())
        optimizer.step()
    assert predicted == pytest.approx(held_now + counted.peak, rel=0.15)


def test_the_optimizers_state_is_measured() -> None:
    def of(name: str) -> float:
        return state_bytes(RunConfig.from_dict({"train": {"optimizer": name}}))

    assert of("adamw") == pytest.approx(8, rel=0.01)
    assert of("sgd") == 0
    assert of("adafactor") < 1


def test_where_torch_cannot_count_it_is_estimated(monkeypatch: pytest.MonkeyPatch) -> None:
    """By weights and pixels; and where three times as much is free nothing is counted."""

    def fails(*_: Any) -> None:
        raise RuntimeError("no")

    config = RunConfig.from_dict({"data": {"resolution": 1024}})
    model, means = _model("sdxl"), Means(1, 0.0, "full")
    monkeypatch.setattr(Counter, "count", fails)
    found = Predictor(model)(config, means)
    assert 14e9 < found < 18e9
    assert Predictor(model)(config, Means(1, 1.0, "full")) < 0.6 * found
    assert Predictor(model)(config, Means(1, 1.0, "fp8")) < Predictor(model)(config, Means(1, 1.0, "full")) - 2e9
    monkeypatch.undo()
    counted: list[int] = []
    monkeypatch.setattr(Counter, "count", lambda *_: counted.append(1))
    assert Predictor(model, free=80_000_000_000)(config, means) == found and not counted

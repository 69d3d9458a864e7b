"""Which kinds the WebUI's own Lora extension cannot apply is said when their training starts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lora_train.config import RunConfig
from lora_train.lorafile.readers import reader_notes
from lora_train.models.opening import open_model
from lora_train.train.network import build_network

Make = Callable[..., RunConfig]
ROOTS = ("lora_unet", "lora_te")


def notes_of(model: Any, config: RunConfig) -> str:
    return "\n".join(build_network(config, model, ROOTS, torch.Generator().manual_seed(0)).notes)


def test_what_the_webui_cannot_apply_is_said(make_config: Make, base: Path) -> None:
    model = open_model(base)

    def said(**network: Any) -> str:
        return notes_of(model, make_config(network={"network_dim": 2, "network_alpha": 2.0} | network))

    assert "cannot apply GLoRA" in said(kind="glora") and "ComfyUI" in said(kind="glora")
    rows = said(dora_wd=True, wd_on_output=True)
    assert "cannot apply DoRA by rows" in rows and "LyCORIS can" in rows
    assert "cannot apply (IA)^3 on convolutions" in said(kind="ia3")
    assert "DoRA by rows" in said(network_rules=("attn1.*to_q: dora_wd=true",), wd_on_output=True)
    readable: tuple[dict[str, Any], ...] = (
        {},
        {"conv_dim": 2},
        {"dora_wd": True},
        {"kind": "ia3", "train_on_input": True},
        {"kind": "loha"},
        {"kind": "lokr"},
        {"kind": "oft"},
        {"kind": "full", "train_norm": True},
        {"init_lora_weights": "pissa"},
    )
    assert [said(**options) for options in readable] == [""] * len(readable)


@pytest.mark.parametrize(("shape", "said"), [((4, 1), 1), ((1, 4), 0), ((4, 1, 1, 1), 1)])
def test_dora_is_told_by_its_shape(shape: tuple[int, ...], said: int) -> None:
    assert len(reader_notes({"lora_te_x": {"dora_scale": torch.ones(shape)}})) == said

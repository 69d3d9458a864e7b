"""What comes from outside has its place on the page: a field of its own, or a choice in the field that chooses it."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import gradio as gr
import pytest

from lora_train.config.extending import registered_for
from lora_train.config.table import Option
from lora_train.hosts.standalone import StandaloneHost
from lora_train.runs.service import Service
from lora_train.ui.train_tab import Defaults, TrainTab
from tests.extending import colours, grain, power, ray, signum, stairs


def form(folder: Path) -> TrainTab:
    with gr.Blocks():
        return TrainTab(Service(StandaloneHost(folder)), Defaults("model", "folder", "sks"))


@pytest.mark.parametrize("module", [grain, power, signum, stairs, colours], ids=lambda module: module.__name__)
def test_an_option_has_a_field_and_its_value_reaches_the_run(module: ModuleType, tmp_path: Path) -> None:
    (option,) = [one for one in module.ADDED if isinstance(one, Option)]
    assert option.path not in form(tmp_path)._fields
    with registered_for(*module.ADDED):
        tab = form(tmp_path)
        field = tab._fields[option.path]
        assert field.label == option.about.label and option.about.help[1:] in field.info
        meant = option.hint((option.about.range or (1, 3))[1]) if option.hint in (int, float) else "red"
        values = {path: component.value for path, component in tab._fields.items()}
        values |= {"save.output_name": "x", option.path: str(meant)}
        assert option.of(tab.config_of(values)) == meant != option.default
    assert option.path not in form(tmp_path)._fields


@pytest.mark.parametrize(
    ("module", "path", "name"),
    [
        (signum, "train.optimizer", "signum"),
        (power, "train.loss_type", "power"),
        (stairs, "train.lr_scheduler", "stairs"),
        (colours, "prepare.captioner", "colours"),
        (ray, "network.kind", "ray"),
    ],
)
def test_a_method_and_a_kind_can_be_chosen(module: ModuleType, path: str, name: str, tmp_path: Path) -> None:
    def offered() -> list[str]:
        choices = form(tmp_path)._fields[path].choices
        return [one[0] if isinstance(one, tuple) else one for one in choices]

    assert name not in offered()
    with registered_for(*module.ADDED):
        assert name in offered()

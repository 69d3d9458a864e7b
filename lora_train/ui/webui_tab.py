"""The *Train LoRA* tab inside a WebUI."""

from __future__ import annotations

import html
import importlib.util
from typing import Any

import gradio as gr

from lora_train.runs.service import Service
from lora_train.ui.dataset_tab import DatasetTab
from lora_train.ui.train_tab import Defaults, TrainTab

TITLE, ELEMENT, TRAIN = "Train LoRA", "lora_train", "train"
NEEDED = ("torch", "diffusers", "transformers", "safetensors")


def missing_packages() -> list[str]:
    """Packages that a training needs and that are not installed; nothing is imported for this check."""
    return [name for name in NEEDED if importlib.util.find_spec(name) is None]


def build_tab(service: Service, page_token: str) -> tuple[Any, str, str]:
    """The tab for `on_ui_tabs`: the blocks, the tab's title, and its id."""
    with gr.Blocks(analytics_enabled=False) as blocks:
        missing = missing_packages()
        if missing:
            gr.HTML(_missing_html(missing))
        else:
            # nothing is read from the checkpoint here, to not slow down the start
            current = service.host.current_checkpoint()
            every = service.host.settings()["preview_every"]
            defaults = Defaults(str(current or ""), preview_every=every)
            with gr.Tabs(selected=TRAIN, elem_id="lora_train_tabs"):
                with gr.Tab("Dataset", id="dataset", elem_id="lora_train_dataset_tab"):
                    DatasetTab(service, page_token)
                with gr.Tab("Train", id=TRAIN, elem_id="lora_train_train_tab"):
                    TrainTab(service, defaults, page_token)
    return blocks, TITLE, ELEMENT


def _missing_html(missing: list[str]) -> str:
    listed = html.escape(", ".join(missing))
    return (
        f'<div class="lora-train-problems" role="alert"><b>Not installed: {listed}.</b> '
        "The extension's install.py installs it when the WebUI starts; it does not run with "
        "--skip-prepare-environment or --skip-install. Start the WebUI once without them.</div>"
    )

"""The *Train LoRA* tab inside a WebUI."""

from __future__ import annotations

import html
import importlib.util
from typing import Any

import gradio as gr

from lora_train.runs.service import Service
from lora_train.ui.train_tab import Defaults, TrainTab

TITLE, ELEMENT = "Train LoRA", "lora_train"
NEEDED = ("torch", "diffusers", "transformers", "safetensors")


def missing_packages() -> list[str]:
    """What is not installed and a training needs; nothing is imported for this."""
    return [name for name in NEEDED if importlib.util.find_spec(name) is None]


def build_tab(service: Service, page_token: str) -> tuple[Any, str, str]:
    """What `on_ui_tabs` wants: the blocks, the tab's title, and its id."""
    with gr.Blocks(analytics_enabled=False) as blocks:
        missing = missing_packages()
        if missing:
            gr.HTML(_missing_html(missing))
        else:
            # nothing is read from the checkpoint here: the tab must not slow the start
            current = service.host.current_checkpoint()
            every = service.host.settings()["preview_every"]
            TrainTab(service, Defaults(str(current or ""), preview_every=every), page_token)
    return blocks, TITLE, ELEMENT


def _missing_html(missing: list[str]) -> str:
    listed = html.escape(", ".join(missing))
    return (
        f'<div class="lora-train-problems" role="alert"><b>Not installed: {listed}.</b> '
        "The extension's install.py installs it when the WebUI starts; it does not run with "
        "--skip-prepare-environment or --skip-install. Start the WebUI once without them.</div>"
    )

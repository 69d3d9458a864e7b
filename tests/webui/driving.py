"""What a person does in a real WebUI's page."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lora_train.config.table import find
from lora_train.config.wording import sentence
from tests.ui.pages import CHROMIUM, fill
from tests.webui.server import WebuiServer

TIMEOUT = 180_000
STEP = re.compile(r"Step \d")
"""A training that goes on. A text would also be found in "stopped after 8 steps": neither case nor blanks count."""
REAL = [
    pytest.mark.webui,
    pytest.mark.skipif(not os.environ.get("WEBUI_DIR"), reason="WEBUI_DIR does not name a WebUI"),
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine"),
]
"""The marks of a module of such tests."""


def open_tab(browser: Any, server: WebuiServer) -> Any:
    page = browser.new_page(viewport={"width": 1280, "height": 1100})
    page.set_default_timeout(TIMEOUT)
    page.goto(server.address)
    page.get_by_role("tab", name="Train LoRA").or_(page.get_by_role("button", name="Train LoRA")).first.click()
    page.locator("#lora_train_start").wait_for()
    return page


def start_training(page: Any, server: WebuiServer, name: str, steps: int, folder: str = "") -> Any:
    fill(page, "lora_train_folder", folder or str(server.data / "pictures"))
    fill(page, "lora_train_tag", "sks")
    fill(page, "lora_train_name", name)
    for path, field in (("train.max_train_steps", "lora_train_steps"), ("data.resolution", "lora_train_resolution")):
        if not page.locator(f"#{field}").is_visible():
            page.get_by_text(sentence(find(path).about.group)).click()
    fill(page, "lora_train_steps", str(steps))
    fill(page, "lora_train_resolution", str(server.side))
    fill(page, "lora_train_lr", "0.002")
    page.locator("#lora_train_start").click()
    live = page.locator("#lora_train_live")
    live.locator(".lora-train-text").filter(has_text=STEP).wait_for()
    return live


def shot(page: Any, server: WebuiServer, name: str) -> None:
    if folder := os.environ.get("SCREENSHOTS"):
        kind = "forge" if server.is_forge else "a1111"
        page.screenshot(path=str(Path(folder) / f"{kind}-{name}.png"))


def difference(one: Image.Image, other: Image.Image) -> int:
    return int(np.abs(np.asarray(one, dtype=int) - np.asarray(other, dtype=int)).max())


def latest_run(server: WebuiServer) -> dict[str, Any]:
    return dict(server.ask("/lora-train/api/v1/runs/latest"))


def wait_for_state(server: WebuiServer, state: str) -> dict[str, Any]:
    deadline = time.monotonic() + 300
    while True:
        found = latest_run(server)
        if found["state"] == state and not found["running"]:  # while it runs on, it gives the GPU back
            return found
        assert time.monotonic() < deadline and found["state"] not in ("failed",), found
        time.sleep(0.5)

"""The standalone page in a real headless Chromium: from the form to a LoRA to a picture."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import draw_pictures

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
OLD_GRADIO = version("gradio").startswith("3.")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(OLD_GRADIO, reason="without a WebUI the live view needs gradio 4 (its pages' head)"),
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine"),
]
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
TIMEOUT = 120_000


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """A standalone server of its own; its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "lora_train", "ui", "--no-browser", "--port", str(port)],
        env=os.environ | {"LORA_TRAIN_DATA": str(tmp_path / "data")},
        cwd=Path(__file__).parents[2],
    )
    address = f"http://127.0.0.1:{port}/"
    deadline = time.monotonic() + 120
    while True:
        try:
            urllib.request.urlopen(address, timeout=5)
            break
        except OSError:
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.5)
    yield address
    process.terminate()
    process.wait(30)


@pytest.fixture
def page(server: str) -> Iterator[Any]:
    with playwright.sync_playwright() as engine:
        browser = engine.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page(viewport={"width": 1280, "height": 1000})
        page.set_default_timeout(TIMEOUT)
        page.goto(server)
        page.locator("#lora_train_start").wait_for()
        yield page
        browser.close()


def _fill(page: Any, elem_id: str, value: str) -> None:
    field = page.locator(f"#{elem_id} textarea, #{elem_id} input").first
    field.fill(value)
    field.blur()


def _shot(page: Any, name: str) -> None:
    if folder := os.environ.get("SCREENSHOTS"):
        page.screenshot(path=str(Path(folder) / f"{name}.png"), full_page=True)


def test_train_refresh_stop_and_generate(page: Any, tmp_path: Path) -> None:
    live = page.locator("#lora_train_live")
    live.get_by_text("No training yet").wait_for()
    _fill(page, "lora_train_folder", str(tmp_path / "nowhere"))
    _fill(page, "lora_train_name", "a/b")
    page.locator("#lora_train_start").click()
    problems = page.locator(".lora-train-problems")
    problems.wait_for()
    _shot(page, "problems")
    assert "no such folder" in problems.inner_text() and "contains '/'" in problems.inner_text()

    _fill(page, "lora_train_folder", str(draw_pictures(tmp_path / "in")))
    _fill(page, "lora_train_name", "sara")
    page.get_by_text("More options").click()
    _fill(page, "lora_train_steps", "100000")
    _fill(page, "lora_train_preview", "sks on blue")
    page.locator("#lora_train_start").click()
    live.locator(".lora-train-text").filter(has_text="Step ").wait_for()
    live.locator("canvas").wait_for()
    live.locator("img").first.wait_for()
    page.reload()
    live.locator(".lora-train-text").filter(has_text="Step ").wait_for()
    live.locator("canvas").wait_for()
    _shot(page, "training")
    page.locator("#lora_train_stop").click()
    live.get_by_text("the LoRA so far is saved").wait_for()
    _shot(page, "stopped")
    assert (tmp_path / "data" / "loras" / "sara.safetensors").is_file()

    page.get_by_role("tab", name="Generate").click()
    page.locator("#lora_train_refresh").click()
    page.locator("#lora_train_loras").get_by_text("<lora:sara:1>").wait_for()
    _fill(page, "lora_train_prompt", "red star on blue <lora:sara:1> <lora:nobody:1>")
    page.locator("#lora_train_generate").click()
    page.locator("#lora_train_gallery img").first.wait_for()
    page.locator("#lora_train_notes").get_by_text("nobody").wait_for()
    _shot(page, "generated")

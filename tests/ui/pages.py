"""A standalone server of its own and a real headless Chromium on it."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
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


@contextmanager
def serving(data: Path) -> Iterator[str]:
    """Start the page's server with its data in a folder; the address that it prints."""
    with running(data, ["lora_train", "ui", "--no-browser", "--port"]) as (process, _):
        said = process.stdout.readline()
        yield said.split(" at ")[1].split()[0]


@contextmanager
def serving_as_in_a_webui(data: Path) -> Iterator[str]:
    """Start a page that has the tab in it as a WebUI has; its address."""
    with running(data, ["tests.ui.webui_page"]) as (_, port):
        yield f"http://127.0.0.1:{port}/"


@contextmanager
def running(data: Path, module: list[str]) -> Iterator[tuple[Any, int]]:
    """A server that is this module, as soon as it answers, and its port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", *module, str(port)],
        env=os.environ | {"LORA_TRAIN_DATA": str(data)},
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 300
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=5).close()
            break
        except OSError:
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.5)
    try:
        yield process, port
    finally:
        process.terminate()
        process.wait(30)


@contextmanager
def browsing(address: str, width: int = 1280) -> Iterator[Any]:
    """A page of a browser on the address, the training form already there."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as engine:
        browser = engine.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page(viewport={"width": width, "height": 1000})
        page.set_default_timeout(TIMEOUT)
        page.goto(address)
        page.locator("#lora_train_start, #txt2img_prompt").first.wait_for()
        if page.locator("#txt2img_prompt").count():
            open_tab(page, "Train LoRA")
        page.locator("#lora_train_start").wait_for()
        yield page
        browser.close()


def fill(page: Any, elem_id: str, value: str) -> None:
    """Type into a field of gradio's."""
    field = page.locator(f"#{elem_id} textarea, #{elem_id} input").first
    field.fill(value)
    field.blur()


def value(page: Any, elem_id: str) -> str:
    """What a field of gradio's shows."""
    return str(page.locator(f"#{elem_id} textarea, #{elem_id} input").first.input_value())


def open_tab(page: Any, name: str) -> None:
    """Click a tab; in gradio 3 they are plain buttons."""
    page.get_by_role("tab", name=name).or_(page.get_by_role("button", name=name, exact=True)).first.click()


def shot(page: Any, name: str) -> None:
    """Keep a picture of the page where the variable SCREENSHOTS names a folder."""
    if folder := os.environ.get("SCREENSHOTS"):
        page.screenshot(path=str(Path(folder) / f"{name}.png"), full_page=True)

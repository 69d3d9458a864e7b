"""The page's own scripts in a real Chromium, with the routes' answers made up: no server, no gradio, no waiting."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.ui.pages import CHROMIUM, FLAGS

ROOT = Path(__file__).parents[2]
ADDRESS = "http://127.0.0.1:9/"
API = "/lora-train/api/v1/"
SCRIPTS = (
    "lora_train",
    "lora_train_runs",
    "lora_train_dataset",
    "lora_train_grid",
    "lora_train_card",
    "lora_train_captions",
    "lora_train_search",
)
Answer = Callable[[str, str, Any], Any]
"""Gives the JSON for a path below the API, a method and what was sent; None for a server that is gone."""


@contextmanager
def scripts(answer: Answer, body: str) -> Iterator[Any]:
    """A page with this body and the scripts, whose requests `answer` answers."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

    def route(one: Any) -> None:
        path = one.request.url.removeprefix(ADDRESS.rstrip("/"))
        if path == "/":
            tags = "".join(f"<script src='{name}.js'></script>" for name in SCRIPTS)
            head = f"<meta charset=utf-8><link rel=stylesheet href=style.css>{tags}"
            return one.fulfill(body=f"<html><head>{head}</head><body>{body}</body></html>", content_type="text/html")
        if not path.startswith(API):
            file = ROOT / path[1:] if path.endswith(".css") else ROOT / "javascript" / path[1:]
            return one.fulfill(path=file) if file.is_file() else one.fulfill(status=404)
        if "/thumbnail" in path or "/source" in path or "/result" in path or "/samples/" in path:
            return one.fulfill(status=404)
        told = answer(path.removeprefix(API).partition("?")[0], one.request.method, one.request.post_data_json)
        if told is None:
            return one.abort("connectionrefused")
        status, content = told if isinstance(told, tuple) else (200, told)
        one.fulfill(status=status, body=json.dumps(content), content_type="application/json")

    with playwright.sync_playwright() as engine:
        browser = engine.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page(viewport={"width": 900, "height": 600})
        page.route("**/*", route)
        page.goto(ADDRESS)
        yield page
        browser.close()

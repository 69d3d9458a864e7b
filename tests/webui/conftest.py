"""A real WebUI and a real browser, for the tests of one module."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import draw_pictures
from tests.ui.pages import CHROMIUM, FLAGS
from tests.webui.server import WebuiServer


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebuiServer]:
    made = WebuiServer(Path(os.environ["WEBUI_DIR"]), tmp_path_factory.mktemp("webui"))
    draw_pictures(made.data / "pictures")
    yield made
    made.stop()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as engine:
        browser = engine.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()

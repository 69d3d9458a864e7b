"""*Train on these* in a real headless Chromium, on the standalone page and as a WebUI embeds it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from lora_train.config import PrepareOptions
from lora_train.hosts.standalone import StandaloneHost
from lora_train.runs.folder import list_runs
from lora_train.runs.service import Service
from tests.conftest import draw_pictures
from tests.ui.pages import CHROMIUM, browsing, fill, open_tab, serving, serving_as_in_a_webui, value

pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")]


@pytest.mark.parametrize(("server", "width"), [(serving, 390), (serving_as_in_a_webui, 1280)])
def test_it_fills_the_form_and_starts_nothing(
    server: Callable[[Path], AbstractContextManager[str]], width: int, tmp_path: Path
) -> None:
    service = Service(StandaloneHost(tmp_path / "data"))
    pictures = draw_pictures(tmp_path / "10_sara")
    service.datasets.start(str(pictures), PrepareOptions(operations=("original",), min_size=0), "sks")
    assert service.datasets.wait(60)
    prepared = service.datasets.all()[0].pictures
    with server(tmp_path / "data") as address, browsing(address, width) as page:
        fill(page, "lora_train_folder", str(draw_pictures(tmp_path / "another")))
        fill(page, "lora_train_tag", "another")
        fill(page, "lora_train_name", "another")
        open_tab(page, "Dataset")
        page.locator("#lora_train_on_these").get_by_text("Train on these 4").click()
        page.locator("#lora_train_folder").wait_for()
        shown = (
            "(wanted) => document.querySelector('#lora_train_name textarea, #lora_train_name input').value === wanted"
        )
        page.wait_for_function(shown, arg="sara")
        assert value(page, "lora_train_folder") == str(prepared)
        assert value(page, "lora_train_tag") == "sks"
        page.wait_for_timeout(1500)  # what was pressed by mistake would have reached the server by now
        assert page.locator("#lora_train_message").first.inner_text() == ""
        assert not (tmp_path / "data" / "runs").exists()

        page.locator("#lora_train_start").click()
        page.locator("#lora_train_message").get_by_text("Started").first.wait_for()
        configs = [run.read()["config"] for run in list_runs(service.runs_dir)]
        assert [config["data"]["folder"] for config in configs] == [str(prepared)]
        assert [config["save"]["output_name"] for config in configs] == ["sara"]

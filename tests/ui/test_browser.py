"""The standalone page in a real headless Chromium: from the form to a LoRA to a picture."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lora_train.config.option import STEPS
from lora_train.config.wording import sentence
from tests.conftest import draw_pictures
from tests.ui.pages import CHROMIUM, browsing, fill, open_tab, serving, shot

pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")]


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Any]:
    with serving(tmp_path / "data") as address, browsing(address) as page:
        yield page


def test_an_answer_of_before_is_not_shown_as_that_of_now(page: Any) -> None:
    fill(page, "lora_train_folder", "/no/such/folder")
    problems = page.locator(".lora-train-problems")
    for _ in range(2):  # the same answer comes back, too
        page.locator("#lora_train_start").click()
        problems.filter(has_text="no such folder").wait_for()
    page.context.set_offline(True)
    page.locator("#lora_train_start").click()
    problems.wait_for(state="detached")


def test_train_refresh_stop_and_generate(page: Any, tmp_path: Path) -> None:
    live = page.locator("#lora_train_live")
    live.get_by_text("No training yet").wait_for()
    fill(page, "lora_train_folder", str(tmp_path / "nowhere"))
    fill(page, "lora_train_name", "a/b")
    page.locator("#lora_train_start").click()
    problems = page.locator(".lora-train-problems")
    problems.wait_for()
    shot(page, "problems")
    assert "no such folder" in problems.inner_text() and "contains '/'" in problems.inner_text()

    fill(page, "lora_train_folder", str(draw_pictures(tmp_path / "in")))
    fill(page, "lora_train_name", "sara")
    page.get_by_text(sentence(STEPS)).click()
    page.get_by_text("Saving and previews").click()
    fill(page, "lora_train_steps", "100000")
    fill(page, "lora_train_preview", "sks on blue")
    page.locator("#lora_train_start").click()
    live.locator(".lora-train-text").filter(has_text="Step ").wait_for()
    live.locator("canvas").wait_for()
    live.locator("img").first.wait_for()
    page.reload()
    live.locator(".lora-train-text").filter(has_text="Step ").wait_for()
    live.locator("canvas").wait_for()
    shot(page, "training")
    page.locator("#lora_train_stop").click()
    live.get_by_text("the LoRA so far is saved").wait_for()
    shot(page, "stopped")
    assert (tmp_path / "data" / "loras" / "sara.safetensors").is_file()

    open_tab(page, "Generate")
    page.locator("#lora_train_refresh").click()
    page.locator("#lora_train_loras").get_by_text("<lora:sara:1>").wait_for()
    fill(page, "lora_train_prompt", "red star on blue <lora:sara:1> <lora:nobody:1>")
    page.locator("#lora_train_generate").click()
    page.locator("#lora_train_gallery img").first.wait_for()
    page.locator("#lora_train_notes").get_by_text("nobody").wait_for()
    shot(page, "generated")

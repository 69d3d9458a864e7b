"""The *Dataset* page in a real headless Chromium: prepare, look, overrule, caption, train on it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.ui.test_browser import _fill, _shot, page, playwright, pytestmark, server

__all__ = ["page", "pytestmark", "server"]  # fixtures and marks of the other page's tests
expect = playwright.expect


def _pictures(folder: Path) -> Path:
    """Three that differ, one nearly equal to the first, a dark one, and one that is none."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(3):
        coarse = rng.integers(30, 225, (9, 9, 3)).astype(np.uint8)
        picture = Image.fromarray(coarse).resize((600, 500), Image.Resampling.BICUBIC)
        picture.save(folder / f"picture-{number}.jpg", quality=92)
        (folder / f"picture-{number}.txt").write_text(f"a blob, number {number}, soft", encoding="utf-8")
    Image.open(folder / "picture-0.jpg").resize((590, 492)).save(folder / "picture-0b.jpg")
    Image.new("RGB", (600, 500), (2, 2, 2)).save(folder / "dark.png")
    (folder / "broken.png").write_text("not a picture", encoding="utf-8")
    return folder


def _card(page: Any, name: str) -> Any:
    return page.locator("#lora_train_grid li").filter(has_text=name).first


def test_prepare_look_overrule_caption_and_train(page: Any, tmp_path: Path) -> None:
    folder = _pictures(tmp_path / "in")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    page.get_by_role("tab", name="Dataset").click()
    _fill(page, "lora_train_dataset_folder", str(tmp_path / "nowhere"))
    page.locator("#lora_train_prepare").click()
    page.get_by_text("there is no such folder").wait_for()
    _fill(page, "lora_train_dataset_folder", str(folder))
    page.locator("#lora_train_prepare").click()
    grid = page.locator("#lora_train_grid")
    expect(grid.locator("li")).to_have_count(6, timeout=60_000)
    _shot(page, "dataset")
    expect(_card(page, "broken.png")).to_contain_text("not a picture")
    expect(_card(page, "picture-0b.jpg")).to_contain_text("picture-0.jpg")
    expect(_card(page, "dark.png")).to_contain_text("range")

    twin = _card(page, "picture-0b.jpg")
    twin.focus()
    page.keyboard.press("k")
    expect(twin).to_have_attribute("data-outcome", "kept", timeout=60_000)
    kept = sorted((tmp_path / "data" / "prepared").rglob("pictures/**/*.png"))
    assert any("picture-0b" in path.name for path in kept)

    twin.press("Enter")
    card = page.locator("#lora_train_card")
    card.wait_for()
    _shot(page, "dataset-card")
    page.locator("#lora_train_card_caption").fill("sks, the second blob")
    page.locator("#lora_train_card_save").click()
    page.locator("#lora_train_card_close").click()
    expect(twin).to_contain_text("the second blob")

    page.locator("#lora_train_captions").click()
    page.locator("#lora_train_edit").select_option("replace")
    form = page.locator(".lora-train-captions form")
    form.get_by_label("Find").fill("blob")
    form.get_by_label("Put in its place").fill("cloud")
    page.locator("#lora_train_edit_preview").click()
    form.get_by_text("4 captions would change").wait_for()
    _shot(page, "dataset-captions")
    page.locator("#lora_train_edit_apply").click()
    expect(twin).to_contain_text("the second cloud")
    page.locator("#lora_train_edit_undo").click()
    expect(twin).to_contain_text("the second blob")

    page.reload()
    page.get_by_role("tab", name="Dataset").click()
    expect(_card(page, "picture-0b.jpg")).to_contain_text("the second blob")
    _shot(page, "dataset-again")
    page.locator("#lora_train_on_these").click()
    field = page.locator("#lora_train_folder textarea, #lora_train_folder input").first
    expect(field).to_have_value(str(next((tmp_path / "data" / "prepared").rglob("pictures")) / "in"))
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before

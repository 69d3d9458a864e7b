"""The *Dataset* page in a real headless Chromium: prepare, look, decide, caption, and all of it after a reload."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageFilter

from lora_train.demo.files import pictures_folder
from tests.prepare.samples import noise
from tests.ui.pages import CHROMIUM, browsing, fill, open_tab, serving, shot

pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")]


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Any]:
    with serving(tmp_path / "data") as address, browsing(address) as page:
        yield page


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three good pictures with captions, a nearly equal one, a soft one, a grainy, a small and a broken one."""
    folder = tmp_path / "in" / "10_sara"
    folder.mkdir(parents=True)
    for number in range(3):
        noise(number, (640, 480)).save(folder / f"good-{number}.png")
        if number:  # of similar pictures the one with a caption would stay, not the larger one
            (folder / f"good-{number}.txt").write_text(f"woman, hat, place {number}\n")
    noise(0, (700, 525)).save(folder / "good-0-again.png")
    noise(7, (640, 480)).filter(ImageFilter.GaussianBlur(20)).save(folder / "soft.png")
    Image.effect_noise((640, 480), 120).convert("RGB").save(folder / "grain.png")
    noise(5, (80, 60)).save(folder / "small.png")
    (folder / "broken.png").write_text("no picture")
    return folder


def card(page: Any, file: str) -> Any:
    return page.locator("#lora_train_grid li").filter(has=page.locator(f"[title='{file}']"))


def wait_for_outcome(page: Any, file: str, outcome: str) -> None:
    card(page, file).locator(".lora-train-badge").get_by_text(outcome, exact=True).wait_for()


def captions_form(page: Any) -> None:
    page.get_by_role("button", name="Captions").or_(page.get_by_text("Captions", exact=True)).first.click()
    page.locator("#lora_train_prepare_recaption input").wait_for()


def texts(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.glob("*.txt")}


def change_all_captions(page: Any) -> None:
    """A preview changes nothing, an edit does, and undo takes it back."""
    view = page.locator("#lora_train_dataset")
    page.locator("#lora_train_captions").click()
    tags = view.locator(".lora-train-tags")
    tags.get_by_text("red hat", exact=True).wait_for()
    page.locator("#lora_train_edit").select_option("replace")
    view.locator("input[name=pattern]").fill("(red )?hat")
    view.locator("input[name=by]").fill("cap")
    page.locator("#lora_train_edit_preview").click()
    view.get_by_text("2 captions would change.").wait_for()
    view.locator(".lora-train-changes ins").first.wait_for()
    shot(page, "dataset-captions")
    assert tags.get_by_text("cap", exact=True).count() == 0
    page.locator("#lora_train_edit_apply").click()
    tags.get_by_text("cap", exact=True).wait_for()
    page.locator("#lora_train_edit_undo").click()
    tags.get_by_text("red hat", exact=True).wait_for()
    assert "Undo: caption of good-1.png" in page.locator("#lora_train_edit_undo").inner_text()


def the_form_is_as_it_was(page: Any, folder: Path) -> None:
    """How the dataset was prepared is shown again after a reload."""
    shown = "(wanted) => [...document.querySelectorAll('textarea, input')].some((one) => one.value === wanted)"
    page.wait_for_function(shown, arg=str(folder))  # the server fills all fields at once
    field = page.locator("#lora_train_dataset_folder textarea, #lora_train_dataset_folder input").first
    assert field.input_value() == str(folder)
    assert page.locator("#lora_train_operation_blur input").is_checked()
    captions_form(page)
    assert page.locator("#lora_train_prepare_tagger input[value=none]").is_checked()
    assert page.locator("#lora_train_prepare_recaption input").is_checked()
    unwanted = page.locator("#lora_train_prepare_tag_blacklist textarea, #lora_train_prepare_tag_blacklist input").first
    assert unwanted.input_value() == "1girl, *hair"


def test_prepare_decide_and_caption(page: Any, folder: Path, tmp_path: Path) -> None:
    before = texts(folder)
    open_tab(page, "Dataset")
    view = page.locator("#lora_train_dataset")
    view.get_by_text("Nothing has been prepared yet").wait_for()
    fill(page, "lora_train_dataset_folder", str(tmp_path / "nowhere"))
    page.locator("#lora_train_prepare").click()
    page.locator("#lora_train_dataset_message .lora-train-problems").get_by_text("no such folder").wait_for()

    fill(page, "lora_train_dataset_folder", str(folder))
    page.locator("#lora_train_operation_blur input").check()
    captions_form(page)
    page.locator("#lora_train_prepare_tagger").get_by_text("none", exact=True).click()
    page.locator("#lora_train_prepare_recaption input").check()
    fill(page, "lora_train_prepare_tag_blacklist", "1girl, *hair")
    page.locator("#lora_train_prepare").click()
    card(page, "good-1.png").wait_for()
    view.locator(".lora-train-chips").get_by_text("too small").wait_for()
    assert page.locator("#lora_train_grid li").count() == 8
    assert "only 80 px wide; needs 512" in card(page, "small.png").inner_text()
    assert "is above the limit of 1.8" in card(page, "grain.png").inner_text()
    assert "not a picture" in card(page, "broken.png").inner_text()
    twins = card(page, "good-0.png")
    assert "Similar to good-0-again.png" in twins.inner_text() and twins.locator("img").count() == 2
    shot(page, "dataset-grid")

    # keys: keep the small one, leave out the soft one, and take that back
    card(page, "small.png").focus()
    page.keyboard.press("k")
    wait_for_outcome(page, "small.png", "Kept by you")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("r")
    wait_for_outcome(page, "soft.png", "Left out by you")
    page.keyboard.press("u")
    wait_for_outcome(page, "soft.png", "Kept")
    page.locator("#lora_train_on_these").get_by_text("Train on these 5").wait_for()

    # a filter, and a picture opened by key: its own caption
    view.get_by_role("button", name="Kept 5").click()
    page.locator("#lora_train_grid li").nth(4).wait_for()
    card(page, "broken.png").wait_for(state="detached")
    card(page, "good-1.png").focus()
    page.keyboard.press("Enter")
    opened = page.locator("#lora_train_card")
    opened.get_by_text("Your picture, 640 × 480").wait_for()
    page.locator("#lora_train_card_caption").fill("woman, red hat, place 1")
    page.locator("#lora_train_card_save").click()
    opened.get_by_text("Saved.").wait_for()
    shot(page, "dataset-card")
    page.keyboard.press("Escape")
    opened.wait_for(state="hidden")
    card(page, "good-1.png").get_by_text("red hat").wait_for()

    change_all_captions(page)

    page.reload()
    open_tab(page, "Dataset")
    wait_for_outcome(page, "small.png", "Kept by you")
    card(page, "good-1.png").get_by_text("red hat").wait_for()
    the_form_is_as_it_was(page, folder)

    page.locator("#lora_train_on_these").click()
    field = page.locator("#lora_train_folder textarea, #lora_train_folder input").first
    field.wait_for()
    pictures = next((tmp_path / "data" / "prepared").glob("*/pictures/*"))
    page.wait_for_function(f"[...document.querySelectorAll('textarea, input')].some((e) => e.value === '{pictures}')")
    assert field.input_value() == str(pictures)
    assert (pictures / "small.png").is_file() and not (pictures / "good-0.png").exists()
    assert (pictures / "good-1.txt").read_text() == "woman, red hat, place 1\n"
    assert texts(folder) == before


def test_phone_and_keyboard(page: Any, folder: Path) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    open_tab(page, "Dataset")
    fill(page, "lora_train_dataset_folder", str(folder))
    page.locator("#lora_train_prepare").click()
    card(page, "good-1.png").wait_for()
    shot(page, "dataset-phone")
    wide = "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert page.evaluate(wide) <= 0  # nothing to scroll sideways
    first = page.locator("#lora_train_grid li").first
    first.focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowLeft")
    assert page.evaluate("document.activeElement.closest('#lora_train_grid') !== null")
    page.keyboard.press("Home")
    assert first.evaluate("(card) => card === document.activeElement")
    page.keyboard.press("Enter")
    page.locator("#lora_train_card").wait_for()
    inside = "document.querySelector('#lora_train_card').contains(document.activeElement)"
    assert page.evaluate(inside)
    page.keyboard.press("ArrowRight")
    page.locator("#lora_train_card .lora-train-title").get_by_text("good-0-again.png").wait_for()


def test_a_check_that_leaves_out_all_is_loosened_by_a_button(page: Any) -> None:
    """The demo's own pictures, with the form as it is at first."""
    open_tab(page, "Dataset")
    fill(page, "lora_train_dataset_folder", str(pictures_folder()))
    page.locator("#lora_train_prepare").click()
    view = page.locator("#lora_train_dataset")
    view.get_by_text("The minimum size leaves out 16 of 16 pictures.").wait_for()
    assert not page.locator("#lora_train_operation_range input").is_checked()
    shot(page, "dataset-advice")
    view.get_by_role("button", name="Lower the minimum size to 128 pixels").click()
    page.locator("#lora_train_on_these").get_by_text("Train on these 15").wait_for()
    assert view.locator(".lora-train-advice li").count() == 0
    page.get_by_text("Sizes and limits").first.click()
    page.wait_for_function(  # the form shows it, too
        "() => [...document.querySelectorAll('textarea, input')].some((one) => one.value === '128')"
    )

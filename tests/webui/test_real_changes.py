"""In a real WebUI: what a person changes at the top of its page before and during a training, and Interrupt."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.ui.pages import fill
from tests.webui.driving import REAL, TIMEOUT, latest_run, open_tab, start_training, wait_for_state
from tests.webui.server import WebuiServer

pytestmark = REAL
OTHER = "another"


@pytest.fixture(scope="module")
def two(server: WebuiServer) -> WebuiServer:
    """The server with a second checkpoint, the first one chosen."""
    server.add_checkpoint(OTHER)
    server.start()
    return server


def choose(page: Any, name: str, field: str = "setting_sd_model_checkpoint") -> None:
    """Choose from a dropdown: by default the one at the top of the WebUI's page, once that has its settings."""
    page.wait_for_function("typeof opts === 'object' && Boolean(opts.sd_model_checkpoint)")
    page.locator(f"#{field} input").first.click()
    page.locator(f"#{field} [data-testid=dropdown-option]").filter(has_text=name).first.click()


def base_shown(page: Any) -> str:
    return str(page.locator("#lora_train_model input").first.input_value())


def until(what: Callable[[], bool], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.3)


def trained_on(server: WebuiServer) -> str:
    run = json.loads((server.runs / latest_run(server)["id"] / "run.json").read_text())
    return Path(run["config"]["model"]["path"]).name


def test_the_base_is_the_checkpoint_in_use(two: WebuiServer, browser: Any) -> None:
    page = browser.new_page(viewport={"width": 1280, "height": 1100})
    page.set_default_timeout(TIMEOUT)
    page.goto(two.address)
    choose(page, OTHER)
    until(lambda: two.ask("/sdapi/v1/options")["sd_model_checkpoint"].startswith(OTHER))
    page.get_by_role("tab", name="Train LoRA").or_(page.get_by_role("button", name="Train LoRA")).first.click()
    until(lambda: base_shown(page).endswith(f"{OTHER}.safetensors"))
    two.pictures("sks")  # it is loaded then: a choice made while another is loaded is forgotten by the WebUI itself
    choose(page, two.checkpoint)
    until(lambda: base_shown(page).endswith(two.checkpoint))
    two.pictures("sks")
    two.ask("/sdapi/v1/options", {"sd_model_checkpoint": f"{OTHER}.safetensors"})  # by another program
    until(lambda: base_shown(page).endswith(f"{OTHER}.safetensors"))
    page.locator("#lora_train_model_refresh").click()
    time.sleep(2)
    assert base_shown(page).endswith(f"{OTHER}.safetensors")
    start_training(page, two, "followed", 8)
    page.get_by_text(f"Started on {OTHER}.safetensors").wait_for()
    wait_for_state(two, "finished")
    assert trained_on(two) == f"{OTHER}.safetensors"
    page.close()


def test_another_one_that_was_chosen_in_the_form_stays(two: WebuiServer, browser: Any) -> None:
    two.ask("/sdapi/v1/options", {"sd_model_checkpoint": f"{OTHER}.safetensors"})
    page = open_tab(browser, two)
    until(lambda: base_shown(page).endswith(f"{OTHER}.safetensors"))
    choose(page, two.checkpoint, "lora_train_model")
    page.locator("#lora_train_model_refresh").click()
    time.sleep(2)
    assert base_shown(page).endswith(two.checkpoint)
    start_training(page, two, "chosen", 8)
    wait_for_state(two, "finished")
    assert trained_on(two) == two.checkpoint
    page.close()


@pytest.mark.parametrize("keep", [False, True])
def test_one_chosen_while_a_training_runs_is_there_afterwards(two: WebuiServer, browser: Any, keep: bool) -> None:
    from lora_train.hosts.settings import FREE_FULLY, KEEP_IN_RAM

    two.ask("/sdapi/v1/options", {"lora_train_model": KEEP_IN_RAM if keep else FREE_FULLY})
    two.ask("/sdapi/v1/options", {"sd_model_checkpoint": f"{OTHER}.safetensors"})
    _, before = two.pictures("sks on blue")
    assert f"Model: {OTHER}" in before
    page = open_tab(browser, two)
    start_training(page, two, f"switched-{keep}", 100_000)
    choose(page, two.checkpoint)
    until(lambda: base_shown(page).endswith(two.checkpoint))  # the form follows at once, and the page does not hang
    page.locator("#lora_train_stop").click()
    wait_for_state(two, "stopped")
    assert two.ask("/sdapi/v1/options")["sd_model_checkpoint"].startswith(two.checkpoint)
    assert trained_on(two) == f"{OTHER}.safetensors"
    _, after = two.pictures("sks on blue")
    assert f"Model: {Path(two.checkpoint).stem}" in after
    page.close()


def test_interrupt_ends_a_picture_that_waits_and_not_the_training(two: WebuiServer, browser: Any) -> None:
    page = open_tab(browser, two)
    start_training(page, two, "waiting", 100_000)
    page.get_by_role("tab", name="txt2img").or_(page.get_by_role("button", name="txt2img", exact=True)).first.click()
    fill(page, "txt2img_prompt", "sks on blue")
    page.locator("#txt2img_generate").click()
    page.get_by_text("In queue").first.wait_for()
    page.locator("#txt2img_interrupt").click()
    page.get_by_text("Interrupted while waiting").first.wait_for()
    page.locator("#txt2img_interrupt").wait_for(state="hidden")
    assert latest_run(two)["running"]
    progress = two.ask("/sdapi/v1/progress")
    until(lambda: two.ask("/sdapi/v1/progress")["state"]["job"] == "lora_train")
    assert progress["state"]["interrupted"] is False
    two.ask(f"/lora-train/api/v1/runs/{latest_run(two)['id']}/stop", {})
    wait_for_state(two, "stopped")
    two.pictures("sks on blue")
    page.close()


def test_our_settings_have_a_heading_of_their_own(two: WebuiServer, browser: Any) -> None:
    page = open_tab(browser, two)
    page.wait_for_function("opts._categories")  # the WebUI's page asks for its settings when it is there
    assert ["Train LoRA", "LoRA Train"] in page.evaluate("opts._categories")
    page.close()


def test_only_checkpoints_are_listed_as_such(two: WebuiServer) -> None:
    listed = {Path(one["filename"]).name for one in two.ask("/sdapi/v1/sd-models")}
    assert listed == {two.checkpoint, f"{OTHER}.safetensors"}

"""Against a real WebUI (see `server.py`), in a real headless Chromium: the tab, the loan, prompts, interruptions."""

from __future__ import annotations

import json
import threading
import time
import urllib.error
from typing import Any

import pytest
from PIL import Image
from safetensors import safe_open

from tests.prepare.samples import noise
from tests.ui.pages import fill
from tests.webui.driving import (
    REAL,
    STEP,
    TIMEOUT,
    difference,
    latest_run,
    open_tab,
    shot,
    start_training,
    wait_for_state,
)
from tests.webui.server import WebuiServer

pytestmark = REAL


def test_train_from_the_tab_while_a_picture_waits(server: WebuiServer, browser: Any) -> None:
    server.start()
    profile = server.ask("/internal/profile-startup")["records"]
    ours = {name: seconds for name, seconds in profile.items() if "lora_train" in name}
    print("startup", ours)
    before, _ = server.pictures("sks on blue")
    page = open_tab(browser, server)
    live = start_training(page, server, "sara", 8 if server.is_forge else 20)
    waiting: dict[str, Any] = {}

    def ask_for_a_picture() -> None:
        waiting["pictures"], _ = server.pictures("sks on blue")
        waiting["state"] = latest_run(server)["state"]

    thread = threading.Thread(target=ask_for_a_picture)
    thread.start()
    page.locator("#lora_train_banner").wait_for()
    progress = server.ask("/sdapi/v1/progress")
    assert progress["state"]["job"] == "lora_train" and 0 < progress["progress"] <= 1
    shot(page, server, "training")
    live.get_by_text("Use it in a prompt").wait_for()
    thread.join(300)
    assert waiting["state"] == "finished"  # it had to wait, and then was made, by the model that came back
    assert difference(before[0], waiting["pictures"][0]) <= 2
    page.locator("#lora_train_send").click()
    prompt = page.locator("#txt2img_prompt textarea")
    assert prompt.input_value() == "sks <lora:sara:1>"
    page.locator("#txt2img_lora_cards [data-name=sara]").wait_for(state="attached")  # nobody pressed its Refresh
    shot(page, server, "sent")
    assert json.loads((server.loras / "sara.json").read_text())["activation text"] == "sks"
    assert (server.loras / "sara.preview.png").is_file()
    page.locator("#lora_train_banner").wait_for(state="detached")
    page.close()


def test_the_bundled_extension_applies_it(server: WebuiServer) -> None:
    without, _ = server.pictures("sks on blue")
    with_lora, infotext = server.pictures("sks on blue <lora:sara:1>")
    assert difference(without[0], with_lora[0]) > 20
    assert "Lora hashes" in infotext
    log = server.text()
    assert "didn't match keys" not in log and "lora key not loaded" not in log
    with_lora[0].save(server.data / "bundled.png")
    without[0].save(server.data / "without.png")


def test_reload_ui_and_a_killed_browser_leave_the_training_alone(server: WebuiServer, browser: Any) -> None:
    page = open_tab(browser, server)
    start_training(page, server, "long", 100_000)
    page.close()
    run = latest_run(server)
    assert run["running"]
    restarts = server.text().count("Startup time")
    page = open_tab(browser, server)
    page.wait_for_function("typeof gradioApp === 'function'")  # Forge loads its scripts after the page
    page.evaluate("() => { gradioApp().getElementById('settings_restart_gradio').click(); }")
    deadline = time.monotonic() + 120
    while server.text().count("Startup time") == restarts:
        assert time.monotonic() < deadline
        time.sleep(0.5)
    page.close()
    time.sleep(2)
    again = latest_run(server)
    assert again["id"] == run["id"] and again["running"]
    page = open_tab(browser, server)
    live = page.locator("#lora_train_live")
    live.locator(".lora-train-text").filter(has_text=STEP).wait_for()
    page.locator("#lora_train_start").click()
    page.get_by_text("a training is already running").wait_for()
    page.locator("#lora_train_stop").click()
    live.get_by_text("the LoRA so far is saved").wait_for()
    assert len(list(server.runs.iterdir())) == 2
    page.close()


def test_a_killed_webui_is_told_truthfully_and_resumed(server: WebuiServer, browser: Any) -> None:
    """The state of the stopped run is there; it goes on, is killed, and goes on again."""
    page = open_tab(browser, server)
    stopped = wait_for_state(server, "stopped")  # the test before has seen the LoRA, not yet the GPU given back
    assert stopped["can_resume"]
    page.locator("#lora_train_resume").click()
    page.locator("#lora_train_live").locator(".lora-train-text").filter(has_text=STEP).wait_for()
    server.kill()
    page.close()
    server.start()
    assert latest_run(server)["state"] == "interrupted"
    page = open_tab(browser, server)
    page.locator("#lora_train_live").get_by_text("Interrupted: its program ended").wait_for()
    shot(page, server, "interrupted")
    page.locator("#lora_train_resume").click()
    page.locator("#lora_train_live").locator(".lora-train-text").filter(has_text=STEP).wait_for()
    assert latest_run(server)["id"] == stopped["id"]
    page.locator("#lora_train_stop").click()
    wait_for_state(server, "stopped")
    page.close()


def test_refusing_generation_by_setting(server: WebuiServer, browser: Any) -> None:
    from lora_train.hosts.settings import REFUSE

    server.ask("/sdapi/v1/options", {"lora_train_generation": REFUSE})
    page = open_tab(browser, server)
    start_training(page, server, "refusing", 100_000)
    with pytest.raises(urllib.error.HTTPError) as caught:
        server.pictures("sks on blue")
    assert caught.value.code == 503 and "A LoRA is being trained" in caught.value.read().decode()
    page.locator("#lora_train_stop").click()
    wait_for_state(server, "stopped")
    server.pictures("sks on blue")
    page.close()


def test_pictures_are_prepared_and_trained_on(server: WebuiServer, browser: Any) -> None:
    folder = server.data / "dataset" / "3_sara"
    folder.mkdir(parents=True)
    for number in range(3):
        noise(number, (640, 480)).save(folder / f"good-{number}.png")
        (folder / f"good-{number}.txt").write_text("woman, hat")
    noise(0, (700, 525)).save(folder / "near.png")
    page = open_tab(browser, server)
    tabs = page.locator("#lora_train_tabs")
    tabs.get_by_role("tab", name="Dataset").or_(tabs.get_by_role("button", name="Dataset", exact=True)).first.click()
    fill(page, "lora_train_dataset_folder", str(folder))
    page.locator("#lora_train_prepare").click()
    near = page.locator("#lora_train_grid li").filter(has=page.locator("[title='near.png']"))
    near.get_by_text("similar to good-0.png").wait_for()
    near.focus()
    page.keyboard.press("k")
    near.get_by_text("Kept by you").wait_for()
    page.locator("#lora_train_captions").click()
    page.locator("#lora_train_edit").select_option("replace")
    page.locator("#lora_train_dataset input[name=pattern]").fill("hat")
    page.locator("#lora_train_dataset input[name=by]").fill("red hat")
    page.locator("#lora_train_edit_apply").click()
    page.locator("#lora_train_dataset .lora-train-tags").get_by_text("red hat", exact=True).wait_for()
    shot(page, server, "dataset")
    page.locator("#lora_train_on_these").get_by_text("Train on these 4").click()
    chosen = page.locator("#lora_train_folder textarea, #lora_train_folder input").first
    page.wait_for_function("element => element.value.includes('/prepared/')", arg=chosen.element_handle())
    start_training(page, server, "prepared", 8 if server.is_forge else 20, folder=chosen.input_value())
    page.locator("#lora_train_live").get_by_text("Use it in a prompt").wait_for()
    run = wait_for_state(server, "finished")
    config = json.loads((server.runs / run["id"] / "run.json").read_text())["config"]
    assert "/prepared/" in config["data"]["folder"]
    trained = safe_open(server.loras / "prepared.safetensors", "pt").metadata()
    assert trained["ss_num_train_images"] == "12"  # 4 pictures, 3 times each
    assert json.loads(trained["ss_tag_frequency"])["3_sara"]["red hat"] == 3
    assert (folder / "good-1.txt").read_text() == "woman, hat"
    page.close()


def test_ours_gives_the_bundled_ones_picture(server: WebuiServer) -> None:
    if server.is_forge:
        pytest.skip("Forge's own Lora code cannot be switched off for ours: its models are patched, not changed")
    server.stop()
    server.start(settings={"disabled_extensions": ["Lora"]})
    without, _ = server.pictures("sks on blue")
    made, infotext = server.pictures("sks on blue <lora:sara:1>")
    assert difference(Image.open(server.data / "without.png"), without[0]) <= 2
    assert difference(Image.open(server.data / "bundled.png"), made[0]) <= 2
    assert "Lora hashes" in infotext
    again, _ = server.pictures("sks on blue")
    assert difference(without[0], again[0]) == 0
    missing, _ = server.pictures("sks on blue <lora:nobody:1>")
    assert difference(without[0], missing[0]) == 0


def test_the_extension_added_nothing_to_the_page_that_fails(server: WebuiServer, browser: Any) -> None:
    page = browser.new_page()
    page.set_default_timeout(TIMEOUT)
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(server.address)
    page.locator("#lora_train_start").wait_for(state="attached")
    time.sleep(3)
    assert not [error for error in errors if "lora" in error.lower()]
    page.close()

"""The live view of a run in a real headless Chromium."""

from __future__ import annotations

from typing import Any

import pytest

from tests.ui.mocked import scripts
from tests.ui.pages import CHROMIUM

pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")]

BODY = "<div id=lora_train_live class=lora-train-live data-page=token></div><div style='height: 3000px'></div>"


def step(number: int, **values: Any) -> dict[str, Any]:
    report = {"kind": "step", "step": number, "of": 5000, "loss": 0.1, "smoothed": 0.1}
    return report | {"pictures_per_second": 2.0, "seconds_left": 4325.4} | values


class Server:
    """One run, whose events are handed out once each, and the runs before it."""

    def __init__(self) -> None:
        self.gone = False
        self.run: Any = {"id": "run", "name": "sara", "state": "training", "running": True}
        self.run |= {"created": 1.7e9, "can_resume": False, "has_state": False, "result": None, "problems": None}
        self.earlier: list[dict[str, Any]] = []
        self.events: list[dict[str, Any]] = []
        self.asked: list[str] = []

    def __call__(self, path: str, method: str, content: Any) -> Any:
        if self.gone:
            return None
        if method == "POST":
            self.asked.append(path)
            return {}
        if path == "runs":
            return [self.run, *self.earlier]
        if path == "runs/latest":
            return 200, self.run  # null where there is none
        given, self.events = self.events, []
        return {"run": self.run, "events": given, "next": 0}


def says(page: Any, text: str) -> Any:
    found = page.locator("#lora_train_live > .lora-train-text").filter(has_text=text)
    found.wait_for(timeout=60_000)
    return found.inner_text()


def test_odd_numbers_and_events_do_not_end_the_view() -> None:
    server = Server()
    odd = {"kind": "choices", "choices": None}
    server.events = [step(1), step(2, loss=None, smoothed=None, seconds_left=None), odd, {"kind": "unheard of"}]
    with scripts(server, BODY) as page:
        assert says(page, "Step 2 of 5000") == "Step 2 of 5000 · loss – · 2.0 pictures/s"
        server.events = [step(3)]
        assert says(page, "Step 3 of 5000").endswith("1:12:05 left")


def test_a_server_that_is_gone_is_said_and_comes_back() -> None:
    server = Server()
    server.events = [step(1)]
    with scripts(server, BODY) as page:
        says(page, "Step 1 of 5000")
        server.gone = True
        assert "left" not in says(page, "Connection lost")
        assert page.locator(".lora-train-state").inner_text() == "connection lost"
        server.gone = False
        says(page, "Step 1 of 5000")
        assert page.locator(".lora-train-state").inner_text() == "training"


@pytest.mark.parametrize(
    ("state", "more", "text"),
    [
        (
            "failed",
            {"problems": [{"what": "there is not enough memory.", "fix": "Lower the batch size."}]},
            "Failed: there is",
        ),
        (
            "stopped",
            {"result": "/x/sara.safetensors", "steps_done": 7},
            "Stopped after 7 steps; the LoRA so far is saved",
        ),
        ("stopped", {"can_resume": True}, "Stopped before the first step; nothing is saved. Resume starts it again."),
        ("interrupted", {"can_resume": True}, "Interrupted: its program ended. Resume starts it again."),
        ("interrupted", {"can_resume": True, "has_state": True}, "Resume continues from the last saved state."),
        ("finished", {"result": "/x/sara.safetensors", "steps_done": 9}, "Finished after 9 steps. Use it in a prompt"),
    ],
)
def test_how_a_run_ended_is_said_without_time_left(state: str, more: dict[str, Any], text: str) -> None:
    server = Server()
    server.events = [step(1, seconds_left=1.0)]
    with scripts(server, BODY) as page:
        says(page, "0:01 left")
        server.run = server.run | {"state": state, "running": False} | more
        assert "left" not in says(page, text)
        assert page.locator("#lora_train_live").inner_text().count(" left") == 0
        assert page.locator("#lora_train_resume").is_visible() == bool(more.get("can_resume"))


def test_lines_of_the_log_scroll_the_log_and_not_the_page() -> None:
    server = Server()
    server.events = [{"kind": "note", "text": f"line {number}"} for number in range(60)]
    with scripts(server, BODY) as page:
        log = page.locator(".lora-train-log")
        log.get_by_text("line 59", exact=True).wait_for()
        end = "(log) => log.scrollHeight - log.scrollTop - log.clientHeight < 8"
        assert log.evaluate(end) and page.evaluate("window.scrollY") == 0
        page.evaluate("window.scrollTo(0, 900)")
        log.evaluate("(log) => { log.scrollTop = 0; }")
        server.events = [{"kind": "note", "text": "the newest"}]
        log.get_by_text("the newest").wait_for(state="attached")
        assert log.evaluate("(log) => log.scrollTop") == 0  # who reads above stays there
        assert page.evaluate("window.scrollY") == 900


def test_any_run_that_can_go_on_is_resumed_from_the_page() -> None:
    server = Server()
    server.run |= {"state": "finished", "running": False, "result": "x"}
    one = {"name": "<b>old</b>", "created": 1.6e9, "running": False}
    server.earlier = [
        one | {"id": "old one", "state": "interrupted", "can_resume": True, "has_state": False},
        one | {"id": "done", "state": "finished", "can_resume": False},
    ]
    with scripts(server, BODY) as page:
        page.locator("#lora_train_earlier").click()
        page.locator("[data-run='done']").wait_for()
        assert page.locator("[data-run='done'] button, [data-run='run'] button").count() == 0
        assert "<b>old</b>" in page.locator("[data-run='old one']").inner_text()
        page.locator("[data-run='old one']").get_by_role("button", name="Start again").click()
        page.locator("[data-run='old one']").wait_for(state="hidden")
        assert server.asked == ["runs/old%20one/resume"]


def test_the_webuis_bar_is_not_beside_ours() -> None:
    """It counts otherwise, from the start of the wait; the WebUI shows it by the element's own style."""
    webui = """<script>
        window.requestProgress = (task, container) => {
            const bar = document.createElement("div");
            bar.className = "progressDiv";
            bar.textContent = "ETA: 26:54";
            bar.style.display = "block";
            container.parentNode.insertBefore(bar, container);
        };
    </script>"""
    server = Server()
    server.events = [step(1)]
    with scripts(server, webui + BODY) as page:
        says(page, "Step 1 of 5000")
        page.locator("#lora_train_live .progressDiv").wait_for(state="attached")
        assert not page.locator("#lora_train_live .progressDiv").is_visible()


def test_a_step_before_a_resume_is_not_where_it_stands() -> None:
    server = Server()
    server.events = [step(7)]
    server.run["state"] = "preparing"
    with scripts(server, BODY) as page:
        says(page, "Getting ready")
        server.run["state"] = "training"
        says(page, "Step 7 of 5000")


def test_the_second_click_of_a_double_click_is_not_for_what_the_first_one_brought() -> None:
    server = Server()
    server.run |= {"state": "finished", "running": False, "result": "x", "can_resume": True, "activation": "sks"}
    server.earlier = [server.run | {"id": "old"}]
    prompt = "<div id=txt2img_prompt><textarea></textarea></div>"
    second = {"detail": 2, "bubbles": True}
    with scripts(server, BODY + prompt) as page:
        page.locator("#lora_train_send").wait_for()
        page.locator("#lora_train_earlier").click()
        page.locator("[data-run=old] button").wait_for()
        for element in ("#lora_train_send", "#lora_train_resume", "[data-run=old] button"):
            page.locator(element).dispatch_event("click", second)
        page.wait_for_timeout(300)
        assert page.locator("#txt2img_prompt textarea").input_value() == "" and server.asked == []
        page.locator("#lora_train_send").click()
        assert page.locator("#txt2img_prompt textarea").input_value() == "sks <lora:sara:1>"


def test_after_the_last_step_no_time_is_left_and_nothing_can_be_stopped() -> None:
    server = Server()
    server.events = [step(5000, seconds_left=0.0)]
    with scripts(server, BODY) as page:
        assert "left" not in says(page, "All 5000 steps are done")
        server.run["state"] = "finished"
        says(page, "Nearly done")
        assert not page.locator("#lora_train_stop").is_visible()


def test_what_is_prepared_is_not_said_while_it_trains() -> None:
    server = Server()
    server.events = [{"kind": "prepare", "stage": "latents", "done": 9, "total": 9}]
    with scripts(server, BODY) as page:
        says(page, "Getting ready for the first step")
        server.events = [step(5000), {"kind": "resumed", "step": 5000}]
        page.wait_for_timeout(1500)
        says(page, "Getting ready for the first step")


def test_the_list_of_runs_that_is_open_shows_how_they_stand() -> None:
    server = Server()
    server.run |= {"state": "stopped", "running": False, "can_resume": True, "has_state": True}
    with scripts(server, BODY) as page:
        page.locator("#lora_train_earlier").click()
        page.locator("[data-run=run] button").wait_for()
        server.run = server.run | {"state": "finished", "can_resume": False, "result": "x"}
        page.locator("[data-run=run] .lora-train-state").get_by_text("finished").wait_for()
        assert page.locator("[data-run=run] button").count() == 0


def test_a_run_whose_folder_is_gone_is_not_shown_any_more() -> None:
    server = Server()
    server.events = [step(1)]
    with scripts(server, BODY) as page:
        says(page, "Step 1 of 5000")
        server.run = None
        page.locator(".lora-train-title").get_by_text("No training yet").wait_for()
        assert "Step" not in page.locator("#lora_train_live").inner_text()

"""Clicks on the *Dataset* page that come twice, too late, or when the server is gone."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from tests.ui.mocked import scripts
from tests.ui.pages import CHROMIUM
from tests.ui.test_card_browser import BODY
from tests.ui.test_card_browser import Server as CardServer

pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")]

STARTED = "<div id=lora_train_dataset_message></div>"


class Server(CardServer):
    """As for the card, with decisions and edits; `gone` answers nothing but the status."""

    def __init__(self) -> None:
        super().__init__()
        self.gone = False
        self.there = True
        self.waits = ""
        self.asked: list[tuple[str, Any]] = []
        self.overruled: dict[str, bool | None] = {}

    def picture(self, key: str) -> dict[str, Any]:
        decided = self.overruled.get(key)
        about = super().picture(key) | {"overruled": decided}
        return about | ({"outcome": "rejected", "can_be_captioned": False} if decided is False else {})

    def __call__(self, path: str, method: str, content: Any) -> Any:
        if method != "GET":
            self.asked.append((path.removeprefix("datasets/d"), copy.copy(content)))
        if self.gone and path != "datasets/d":
            return None
        if path == "datasets" and not self.there:
            return {"datasets": []}
        if path.endswith("/overrule"):
            key = path.split("/")[3]
            self.overruled[key] = content["keep"]
            return {"picture": self.picture(key), "waits": self.waits}
        if path.startswith("datasets/d/captions/") and method == "POST":
            return {"name": "add in front: a", "changed": 1, "undo": "", "total": 0, "changes": []} | {
                "skipped": [{"file": "x.txt", "reason": "it is a link"}],
                "uncaptioned": 2,
            }
        if path == "datasets/d/captions/tags":
            return {"tags": [["one", 1]], "undo": "add in front: a"}
        return super().__call__(path, method, content)


def tile(page: Any, key: str) -> Any:
    return page.locator(f"#lora_train_grid li[data-key={key}]")


def says(page: Any, text: str) -> None:
    page.locator("#lora_train_dataset > .lora-train-text").filter(has_text=text).wait_for()


def test_a_double_click_decides_once() -> None:
    server = Server()
    with scripts(server, BODY) as page:
        tile(page, "a").locator("[data-decide=reject]").dblclick()
        tile(page, "a").locator("[data-decide=reject][aria-pressed=true]").wait_for()
        tile(page, "b").locator("[data-decide=keep]").click()
        tile(page, "b").locator("[data-decide=keep][aria-pressed=true]").wait_for()
        decided = [("/pictures/a/overrule", {"keep": False}), ("/pictures/b/overrule", {"keep": True})]
        assert server.asked == decided
        tile(page, "b").locator("[data-decide=keep]").click()
        tile(page, "b").locator("[data-decide=keep][aria-pressed=false]").wait_for()
        assert server.asked == [*decided, ("/pictures/b/overrule", {"keep": None})]


@pytest.mark.parametrize(
    ("button", "path", "text"), [("undo", "undo", "Undone"), ("apply", "edit", "1 caption changed")]
)
def test_a_double_click_edits_and_undoes_once(button: str, path: str, text: str) -> None:
    server = Server()
    with scripts(server, BODY) as page:
        page.locator("#lora_train_captions").click()
        page.locator("#lora_train_edit_undo:enabled").wait_for()
        page.locator("input[name=tags]").fill("a")
        page.locator(f"#lora_train_edit_{button}").dblclick()
        page.locator(".lora-train-captions .lora-train-text").filter(has_text=text).wait_for()
        assert [asked for asked, _ in server.asked] == [f"/captions/{path}"]


def test_what_fails_is_said_whatever_was_pressed() -> None:
    server = Server()
    with scripts(server, BODY) as page:
        tile(page, "a").wait_for()
        server.gone = True
        tile(page, "a").locator(".lora-train-thumbs").click()
        says(page, "Connection lost")
        server.gone = False
        tile(page, "a").locator(".lora-train-thumbs").click()
        opened = page.locator("#lora_train_card")
        opened.get_by_text("a.png").wait_for()
        server.gone = True
        opened.get_by_role("button", name="Next").click()
        opened.get_by_text("Connection lost").wait_for()


def test_a_decision_in_the_card_is_answered_in_the_card_and_saves_the_caption() -> None:
    server = Server()
    server.waits = "a training is already running."
    with scripts(server, BODY) as page:
        tile(page, "a").locator(".lora-train-thumbs").click()
        opened = page.locator("#lora_train_card")
        opened.locator("#lora_train_card_caption").fill("one, red hat")
        opened.locator("[data-decide=reject]").click()
        opened.get_by_text("A picture that is left out has no caption of its own").wait_for()
        opened.get_by_text("Saved, and applied at the next preparation: a training").wait_for()
        assert server.captions["a"] == "one, red hat"


def test_nothing_is_prepared_is_not_said_beside_what_is_prepared() -> None:
    server = Server()
    server.there = False
    with scripts(server, BODY + STARTED) as page:
        says(page, "Nothing has been prepared yet")
        server.there = True
        page.evaluate(
            "document.querySelector('#lora_train_dataset_message').innerHTML = '<p data-dataset=d data-started=1></p>'"
        )
        tile(page, "a").wait_for()
        page.locator("#lora_train_dataset > .lora-train-text").filter(has_not_text="Nothing").wait_for(state="attached")


def test_the_list_is_asked_for_again_until_there_is_an_answer() -> None:
    server = Server()
    server.gone = True
    with scripts(server, BODY) as page:
        says(page, "Connection lost")
        assert "Nothing has been prepared" not in page.locator("#lora_train_dataset").inner_text()
        server.gone = False
        tile(page, "a").wait_for()


def test_notes_have_the_words_of_the_page() -> None:
    server = Server()
    server.notes = ["No captions are made: use a model of your own (prepare.captioner transformers)."]
    live = """<div id=lora_train_live data-labels='{"prepare.captioner": "Captioner"}'></div>"""
    with scripts(server, BODY + live) as page:
        page.locator(".lora-train-notes").get_by_text("(“Captioner” transformers)").wait_for()


def test_what_an_edit_of_all_does_not_touch_is_said() -> None:
    with scripts(Server(), BODY) as page:
        page.locator("#lora_train_captions").click()
        page.locator("input[name=tags]").fill("a")
        said = page.locator(".lora-train-captions .lora-train-text")
        for button, text in (("preview", "Nothing would change. x.txt"), ("apply", "1 caption changed. x.txt")):
            page.locator(f"#lora_train_edit_{button}").click()
            said.filter(has_text=text).filter(has_text="2 pictures have no caption yet and get none").wait_for()
        page.locator("#lora_train_edit").select_option("deduplicate")
        page.locator("#lora_train_edit_preview").click()
        said.filter(has_text="x.txt is left alone: it is a link.").filter(has_not_text="no caption").wait_for()

"""A picture's card in a real headless Chromium: what is written is never lost in silence."""

from __future__ import annotations

from typing import Any

import pytest

from lora_train.ui.dataset_tab import view_html
from tests.ui.mocked import scripts
from tests.ui.pages import CHROMIUM

pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")]

BODY = view_html("token")


class Server:
    """A dataset of two pictures; `full` is a disk that nothing can be written to."""

    def __init__(self) -> None:
        self.full = False
        self.notes: list[str] = []
        self.captions = {"a": "one", "b": "two"}

    def picture(self, key: str) -> dict[str, Any]:
        about: dict[str, Any] = {
            "file": f"{key}.png",
            "operation": "original",
            "outcome": "kept",
            "rule": "",
            "reason": "",
            "twin": None,
        }
        about |= {"scores": {"range": None}, "overruled": None, "can_be_kept": True, "can_be_captioned": True}
        return about | {"key": key, "caption": self.captions[key], "thumbnail": "", "output": "x", "box": None}

    def __call__(self, path: str, method: str, content: Any) -> Any:
        if path == "runs/latest":
            return 200, None
        if path == "datasets":
            return {"datasets": [{"id": "d", "name": "d", "folder": "/d"}]}
        if path == "datasets/d":
            counts = {"all": 2, "kept": 2, "rejected": 0, "rules": {}, "pending": 0}
            status = {"id": "d", "name": "d", "folder": "/d", "version": "1", "job": None, "preparing": False}
            return status | {"counts": counts, "advice": [], "notes": self.notes, "options": {}}
        if path == "datasets/d/pictures":
            return {"total": 2, "start": 0, "pictures": [self.picture(key) for key in self.captions]}
        if path == "datasets/d/captions/tags":
            return {"tags": [], "undo": ""}
        key = path.split("/")[3]
        if method == "PUT":
            if self.full:
                return 422, {"problems": [{"what": "the disk is full.", "where": "", "fix": "Make room."}]}
            self.captions[key] = content["caption"]
            return {"picture": self.picture(key), "undo": ""}
        return self.picture(key)


def test_next_and_close_save_with_a_word() -> None:
    server = Server()
    with scripts(server, BODY) as page:
        page.locator("#lora_train_grid li").first.click()
        opened, caption = page.locator("#lora_train_card"), page.locator("#lora_train_card_caption")
        caption.fill("one, red hat")
        opened.get_by_role("button", name="Next").click()
        opened.get_by_text("Saved the caption of a.png.").wait_for()
        assert server.captions["a"] == "one, red hat" and caption.input_value() == "two"
        opened.get_by_role("button", name="Next").click()
        opened.get_by_text("This is the last picture on this page.").wait_for()
        caption.fill("two, blue hat")
        server.full = True
        opened.get_by_role("button", name="Back").click()
        opened.get_by_text("Not saved: the disk is full. Make room.").wait_for()
        page.keyboard.press("Escape")
        opened.get_by_text("Not saved").wait_for()
        assert opened.is_visible() and caption.input_value() == "two, blue hat"
        server.full = False
        page.keyboard.press("Escape")
        opened.wait_for(state="hidden")
        page.locator("#lora_train_dataset .lora-train-text").get_by_text("Saved the caption of b.png.").first.wait_for()
        assert server.captions["b"] == "two, blue hat"

"""The search field of the training form in a real Chromium: on made-up folds, then on the page itself."""

from __future__ import annotations

import html
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from lora_train.config.option import STEPS
from lora_train.config.wording import sentence
from tests.ui.mocked import scripts
from tests.ui.pages import CHROMIUM, browsing, fill, serving, shot, value

pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")

OPTIONS = {
    "fields": [
        {"id": "lora_train_folder", "group": "", "words": "Folder of pictures data.folder --input train_data_dir"},
        {"id": "lora_train_dim", "group": "lora_train_group_network", "words": "Dimension (rank) network_dim --dim"},
        {"id": "lora_train_alpha", "group": "lora_train_group_network", "words": "Alpha network.network_alpha"},
        {"id": "lora_train_snr", "group": "lora_train_group_noise", "words": "Min-SNR gamma train.min_snr_gamma"},
    ],
    "elsewhere": [{"label": "Folder for LoRAs", "why": "They go elsewhere.", "words": "output_dir --dir"}],
}
FOLDS = f"""
<div id="lora_train_search" data-options="{html.escape(json.dumps(OPTIONS))}"></div>
<div id="lora_train_folder">folder</div>
<div id="lora_train_group_network" class="block"></div>
<div id="lora_train_group_noise" class="block"></div>
<script>
    // as gradio makes them: what is inside is there from the beginning, or only once the fold has been opened
    function fold(id, lazily, inside) {{
        const element = document.getElementById(id);
        element.innerHTML = '<button class="label-wrap">' + id + '</button><div style="display: none"></div>';
        const [bar, content] = element.children;
        const make = () => {{ content.innerHTML = content.innerHTML || inside; }};
        if (!lazily) make();
        bar.addEventListener("click", () => {{
            const open = bar.classList.toggle("open");
            content.style.display = open ? "block" : "none";
            setTimeout(make, 50);
        }});
    }}
    const field = (id) => '<div id="lora_train_' + id + '" class="block" style="display: flex">' + id + '</div>';
    fold("lora_train_group_network", LAZY, field("dim") + field("alpha"));
    fold("lora_train_group_noise", LAZY, field("snr"));
</script>
"""


@contextmanager
def searching(lazily: bool) -> Iterator[Any]:
    with scripts(lambda *_: (404, {}), FOLDS.replace("LAZY", str(lazily).lower())) as page:
        page.locator("#lora_train_search_field").wait_for()
        yield page


def type_in(page: Any, text: str) -> None:
    page.locator("#lora_train_search_field").fill(text)


def seen(page: Any) -> set[str]:
    names = ("folder", "dim", "alpha", "snr", "group_network", "group_noise")
    return {name for name in names if page.locator(f"#lora_train_{name}").is_visible()}


def said(page: Any) -> str:
    return str(page.locator(".lora-train-found").inner_text())


@pytest.mark.parametrize("lazily", [False, True])
def test_only_what_has_all_the_words_is_shown(lazily: bool) -> None:
    with searching(lazily) as page:
        assert seen(page) == {"folder", "group_network", "group_noise"}
        for text in ("rank", "--network_dim", "network-dim", "DIMENSION (", " dim  rank "):
            type_in(page, text)
            page.locator("#lora_train_dim").wait_for()
            assert seen(page) == {"folder", "group_network", "dim"} and said(page) == "1 option", text
        type_in(page, "ension")  # in the middle of a word
        assert seen(page) == {"folder"}
        type_in(page, "network")
        page.locator("#lora_train_alpha").wait_for()
        assert seen(page) == {"folder", "group_network", "dim", "alpha"} and said(page) == "2 options"
        type_in(page, "min_snr")
        page.locator("#lora_train_snr").wait_for()
        assert seen(page) == {"folder", "group_noise", "snr"}


@pytest.mark.parametrize("lazily", [False, True])
def test_an_empty_field_puts_everything_back(lazily: bool) -> None:
    with searching(lazily) as page:
        page.locator("#lora_train_group_noise button").click()
        page.locator("#lora_train_snr").wait_for()
        before = seen(page)
        assert before == {"folder", "group_network", "group_noise", "snr"}
        for text in ("rank", "nothing has these words", "snr"):
            type_in(page, text)
            page.wait_for_timeout(100)
            type_in(page, "")
            assert seen(page) == before and said(page) == ""
        page.locator("#lora_train_group_network button").click()
        page.locator("#lora_train_dim").wait_for()
        assert seen(page) == before | {"dim", "alpha"}


def test_what_is_not_found_and_what_is_elsewhere_is_said() -> None:
    with searching(False) as page:
        type_in(page, "zzz")
        assert said(page) == "No option has these words" and seen(page) == {"folder"}
        type_in(page, "output_dir")
        assert said(page) == "Folder for LoRAs: They go elsewhere."
        type_in(page, "train_data_dir")
        assert said(page) == "1 option" and page.locator("#lora_train_folder").get_attribute("data-found") is not None
        type_in(page, "")
        assert page.locator("#lora_train_folder").get_attribute("data-found") is None


@pytest.mark.slow
def test_an_option_is_found_and_counts_on_the_page(tmp_path: Path) -> None:
    with serving(tmp_path / "data") as address, browsing(address) as page:
        fill(page, "lora_train_folder", str(tmp_path / "nowhere"))
        shot(page, "form")
        type_in(page, "lokr factor")
        factor, rate = page.locator("#lora_train_factor"), page.locator("#lora_train_lr")
        factor.wait_for()
        shot(page, "form-search")
        fill(page, "lora_train_factor", "0")
        type_in(page, "gradient_checkpointing")
        page.locator("#lora_train_gradient_checkpointing").wait_for()
        assert not factor.is_visible() and not rate.is_visible()
        type_in(page, "")
        page.locator("#lora_train_gradient_checkpointing").wait_for(state="hidden")
        assert page.locator("[id^=lora_train_group_]").first.is_visible()
        assert not rate.is_visible() and not factor.is_visible()
        page.get_by_text(sentence(STEPS)).click()
        rate.wait_for()
        fill(page, "lora_train_lr", "fast")
        page.locator("#lora_train_start").click()
        problems = page.locator(".lora-train-problems")
        problems.wait_for()
        shot(page, "form-problems")
        for text in ("Learning rate", "'fast' is not a number", "Factor of LoKr", "no such folder"):
            assert text in problems.inner_text()
        type_in(page, "factor")
        factor.wait_for()
        assert value(page, "lora_train_factor") == "0"

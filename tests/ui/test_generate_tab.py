"""What the *Generate* page begins with: the newest LoRA, ready; without any, how to make one."""

from __future__ import annotations

import json
import os
from pathlib import Path

import gradio as gr
import pytest
import torch

from lora_train.config.table import find, in_section
from lora_train.config.wording import hint_of, label_of
from lora_train.console import own_command
from lora_train.demo.files import GUIDANCE
from lora_train.hosts.standalone import StandaloneHost
from lora_train.lorafile.writing import serialise
from lora_train.runs.service import Service
from lora_train.ui.generate_tab import ELSEWHERE, MAX_SEED, USUAL_GUIDANCE, GenerateTab, seeds_of
from lora_train.ui.standalone import in_use
from tests.ui.pages import CHROMIUM, browsing, fill, open_tab, serving, shot, value


def lora(folder: Path, name: str, at: float, **metadata: str) -> Path:
    path = folder / f"{name}.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(serialise({"x": torch.tensor(1.0)}, metadata))
    os.utime(path, (at, at))
    return path


def tab_of(host: StandaloneHost) -> GenerateTab:
    with gr.Blocks():
        return GenerateTab(Service(host))


def test_the_newest_lora_with_its_words_and_its_base(host: StandaloneHost, base: Path, tmp_path: Path) -> None:
    lora(host.lora_dir(), "old", 1000.0, **{"modelspec.trigger_phrase": "older"})
    lora(
        host.lora_dir(), "below/sara", 3000.0, **{"modelspec.trigger_phrase": "sara woman", "ss_sd_model_name": "base"}
    )
    lora(host.lora_dir(), "middle", 2000.0)
    tab = tab_of(host)
    assert tab.prompt.value == "sara woman <lora:sara:1>"
    assert (tab.model.value, tab.guidance.value) == (str(base), GUIDANCE)
    lora(host.lora_dir(), "other/sara", 4000.0)
    assert tab_of(host).prompt.value == "<lora:other/sara:1>"


def test_the_cards_words_go_before_the_files(host: StandaloneHost) -> None:
    path = lora(host.lora_dir(), "sara", 1000.0, **{"modelspec.trigger_phrase": "of the file"})
    path.with_suffix(".json").write_text(json.dumps({"activation text": "of the card"}), encoding="utf-8")
    assert tab_of(host).prompt.value == "of the card <lora:sara:1>"


def test_a_base_of_a_family_has_the_familys_guidance(host: StandaloneHost, tmp_path: Path) -> None:
    (tmp_path / "sd.ckpt").touch()
    (host.data_dir()).mkdir()
    (host.data_dir() / "last-base.json").write_text(json.dumps({"path": str(tmp_path / "sd.ckpt")}), encoding="utf-8")
    tab = tab_of(host)
    assert (tab.model.value, tab.guidance.value) == (str(tmp_path / "sd.ckpt"), USUAL_GUIDANCE)


def test_without_a_lora_the_page_says_how_to_make_one(host: StandaloneHost, base: Path) -> None:
    tab = tab_of(host)
    assert tab.prompt.value == "" and tab.model.value == str(base)
    said = tab._loras.value
    assert "There is no LoRA yet" in said and "Train LoRA" in said and own_command("demo") in said


def test_what_is_no_lora_is_no_reason_to_fail(host: StandaloneHost) -> None:
    host.lora_dir().mkdir(parents=True)
    (host.lora_dir() / "broken.safetensors").write_bytes(b"nonsense")
    assert tab_of(host).prompt.value == "<lora:broken:1>"


def pressed(tab: GenerateTab, **values: object) -> tuple[list[object], str]:
    """What *Generate* answers with these values in its fields."""
    given = {"prompt": "a star", "negative": "", "steps": 1, "guidance": 1, "seed": 1, "count": 1} | values
    fields = {getattr(tab, name): value for name, value in ({"model": tab.model.value} | given).items()}
    return tab._generate(fields)


def test_what_cannot_be_generated_is_said(host: StandaloneHost, base: Path) -> None:
    tab = tab_of(host)
    for values, said in (
        ({"model": " "}, "Base model</b> no base model is given."),
        ({"seed": 1e22}, "is too large"),
        ({"seed": MAX_SEED - 1}, "is too large"),
    ):
        pictures, message = pressed(tab, **values)
        assert pictures == [] and said in message, values


def test_a_seed_below_zero_is_one_at_random_and_named(host: StandaloneHost, base: Path) -> None:
    seeds, (note,) = seeds_of(-1, 3)
    assert len(seeds) == 3 and str(seeds[0]) in note
    assert seeds_of(-1, 3)[0] != seeds
    assert seeds_of(7, 2) == (range(7, 9), ()) and seeds_of(None, 1) == (range(1), ())


def test_what_is_cut_off_a_prompt_is_said(host: StandaloneHost, base: Path) -> None:
    pictures, message = pressed(tab_of(host), prompt="red " * 230, negative="blue " * 225)
    assert len(pictures) == 1
    assert "The prompt is 230 tokens long; the model reads 225" in message and "negative" not in message


def test_the_fields_are_the_tables(host: StandaloneHost, base: Path) -> None:
    tab = tab_of(host)
    fields = {"prompt", "negative", "model", "steps", "guidance", "seed", "count"}
    assert fields | {path.partition(".")[2] for path in ELSEWHERE} == {one.name for one in in_section("generate")}
    for name in fields:
        field = getattr(tab, name)
        assert (field.label, field.info) == (label_of(f"generate.{name}"), hint_of(f"generate.{name}"))
    limits = find("generate.steps").about.range
    assert limits is not None and tab.steps.maximum <= limits[1]
    assert (tab.steps.value, tab.seed.value) == (20, 1)


def test_all_that_is_wrong_is_said_at_once_in_the_pages_words(host: StandaloneHost, base: Path) -> None:
    pictures, message = pressed(tab_of(host), steps=2000, guidance=1000, count=17, seed=1e22)
    assert pictures == [] and message.count("<li>") == 4
    for label in ("Steps", "Guidance", "Pictures", "Seed"):
        assert f"<b>{label}</b>" in message


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_in_a_browser(tmp_path: Path, base: Path) -> None:
    folder = tmp_path / "data" / "loras"
    with serving(tmp_path / "data") as address, browsing(address) as page:
        open_tab(page, "Generate")
        page.locator("#lora_train_loras").get_by_text("There is no LoRA yet").wait_for()
        shot(page, "generate-without-a-lora")
        assert value(page, "lora_train_prompt") == ""

        lora(folder, "mascot", 1000.0, **{"modelspec.trigger_phrase": "sks", "ss_sd_model_name": "base"})
        open_tab(page, "Train LoRA")
        open_tab(page, "Generate")  # which looks for new ones
        page.wait_for_function("document.querySelector('#lora_train_prompt textarea').value == 'sks <lora:mascot:1>'")
        assert value(page, "lora_train_generate_model") == str(base)
        shot(page, "generate-with-a-lora")

        lora(folder, "sara", 2000.0, **{"modelspec.trigger_phrase": "sara"})
        page.reload()
        page.locator("#lora_train_start").wait_for()
        open_tab(page, "Generate")
        page.wait_for_function("document.querySelector('#lora_train_prompt textarea').value == 'sara <lora:sara:1>'")

        fill(page, "lora_train_prompt", "my own words")
        lora(folder, "anna", 3000.0)
        page.locator("#lora_train_refresh").click()
        page.locator("#lora_train_loras").get_by_text("<lora:anna:1>").wait_for()
        page.wait_for_timeout(500)
        assert value(page, "lora_train_prompt") == "my own words"


def test_a_port_in_use() -> None:
    import socket

    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]
        assert not in_use(port)
        server.listen()
        assert in_use(port)

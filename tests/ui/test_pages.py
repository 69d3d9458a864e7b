"""The pages as far as they go without a browser; `test_browser.py` opens them in one."""

from __future__ import annotations

import html
import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest
from fastapi import FastAPI, WebSocket

from lora_train.api.routes import STATIC_FILES
from lora_train.config import (
    DataOptions,
    ModelOptions,
    NetworkOptions,
    PrepareOptions,
    PreviewOptions,
    RunConfig,
    SaveOptions,
    TrainOptions,
)
from lora_train.config.sections.captions import EDITS
from lora_train.demo.mascot import TAG
from lora_train.errors import LoraTrainError, Problem
from lora_train.hosts.access import PAGE_HEADER
from lora_train.hosts.settings import Settings
from lora_train.hosts.standalone import StandaloneHost
from lora_train.runs.demo import demo_config
from lora_train.runs.service import Service
from lora_train.ui.dataset_tab import LOOKS, NUMBERS, OPERATIONS, TEXTS, edits_json, options_of, values_of, view_html
from lora_train.ui.form import name_of, on_page
from lora_train.ui.gate import Gate, new_token, only_for_me
from lora_train.ui.reading import path_of
from lora_train.ui.train_tab import ARGUMENTS, Defaults, TrainTab, problems_html


@pytest.fixture
def tab(host: StandaloneHost) -> TrainTab:
    with gr.Blocks():
        return TrainTab(Service(host), Defaults("model", "folder", "sks"))


def _values(**given: Any) -> dict[str, Any]:
    """What the form's fields hold, by the paths of their options; given by their names on the page."""
    paths = {name_of(option): option.path for option in on_page()} | {"args": ARGUMENTS}
    return dict.fromkeys(paths.values()) | {
        paths[name]: value for name, value in ({"model": "m", "folder": "f", "tag": "sks"} | given).items()
    }


def test_what_is_left_empty_is_chosen_later(tab: TrainTab, host: StandaloneHost) -> None:
    config = tab.config_of(_values())
    assert config.save.output_name == "sks" and config.save.output_dir == str(host.lora_dir())
    assert config.train.max_train_steps is None and config.network.network_dim is None
    assert config.preview.prompts == ("sks",)
    assert tab.config_of(_values(preview=" - ")).preview.prompts == ()
    assert tab.config_of(_values(tag=" ")).preview.prompts == ()


def test_the_demo_is_what_the_page_starts_with_its_fields_as_filled_in(tab: TrainTab, tmp_path: Path) -> None:
    demo = demo_config(tmp_path)
    page = tab.config_of(_values(folder=demo.data.folder, model=demo.model.path, tag=TAG))
    for group in ("model", "data", "network", "train"):
        assert getattr(page, group) == getattr(demo, group)


def test_what_is_given_is_kept(tab: TrainTab) -> None:
    config = tab.config_of(_values(steps=0, dim=8, lr=1e-3, name=" sara ", preview="sks", preview_every=5, seed=0))
    assert config.train.max_train_steps == 0  # the check says so; it is not silently replaced
    assert (config.network.network_dim, config.train.learning_rate, config.train.seed) == (8, 1e-3, 0)
    assert config.save.output_name == "sara" and config.preview.prompts == ("sks",)


def test_every_field_of_the_form_goes_to_its_own_option(
    tab: TrainTab, host: StandaloneHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Values that no other field has, so that none can stand in another's place."""
    monkeypatch.setattr(host, "settings", lambda: Settings(SimpleNamespace(lora_train_state_minutes=7.5)))
    values = _values(
        model="/models/base.safetensors", folder="/pictures", tag="sks", name="sara",
        steps="101", batch="3", resolution="704", lr="0.002", textlr="0.0003", algo="lora",
        args="rank_dropout=0.25", dim="12", alpha="6.5", seed="77", preview="sks in a hat",
        preview_every="55", overwrite=True,
    )  # fmt: skip
    assert {*values, "followed"} == tab._fields.keys()
    assert tab.config_of(values) == RunConfig(
        model=ModelOptions(path="/models/base.safetensors"),
        data=DataOptions(folder="/pictures", tag="sks", resolution=704, train_batch_size=3),
        network=NetworkOptions(network_dim=12, network_alpha=6.5, rank_dropout=0.25),
        train=TrainOptions(max_train_steps=101, learning_rate=0.002, text_encoder_lr=0.0003, seed=77),
        save=SaveOptions("sara", str(host.lora_dir()), overwrite=True, save_state_every_n_minutes=7.5),
        preview=PreviewOptions(prompts=("sks in a hat",), sample_every_n_steps=55),
    )


def test_an_empty_form_asks_for_the_defaults(tab: TrainTab, host: StandaloneHost) -> None:
    config, plain = tab.config_of(_values()), RunConfig()
    assert config.train == plain.train and config.network == plain.network
    assert (config.data.train_batch_size, config.save.overwrite) == (plain.data.train_batch_size, False)
    assert config.preview.sample_every_n_steps == 0


@pytest.mark.parametrize("mark", ['"', "'"])
def test_quotation_marks_around_a_path_are_no_part_of_it(
    tab: TrainTab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mark: str
) -> None:
    config = tab.config_of(_values(folder=f" {mark}{tmp_path}{mark} ", model=f"{mark}C:\\models\\a b.ckpt{mark}"))
    assert config.data.folder == str(tmp_path) and config.model.path == "C:\\models\\a b.ckpt"
    assert path_of(mark) == mark and path_of(f"it{mark}s") == f"it{mark}s" and path_of(None) == ""
    if os.name != "nt":
        (tmp_path / f"{mark}odd{mark}").mkdir()
        monkeypatch.chdir(tmp_path)
        assert path_of(f"{mark}odd{mark}") == f"{mark}odd{mark}"


def test_kind_and_options_of_the_network(tab: TrainTab) -> None:
    assert tab.config_of(_values()).network == NetworkOptions()
    network = tab.config_of(_values(algo="lokr", dim="8", args=" factor=8  rank_dropout=0.1")).network
    assert network == NetworkOptions(kind="lokr", network_dim=8, factor=8, rank_dropout=0.1)
    assert tab.config_of(_values(algo="locon", dim="8")).network.conv_dim == 8
    rule = tab.config_of(_values(args="'network_rules=attn: dim=4; ff: off'")).network.network_rules
    assert rule == ("attn: dim=4", "ff: off")
    with pytest.raises(LoraTrainError) as told:
        tab.config_of(_values(steps="many", args="factor=x colour=red"))
    assert sorted(problem.where for problem in told.value.problems) == ["--args", "--args", "train.max_train_steps"]
    with pytest.raises(LoraTrainError, match="No closing quotation"):
        tab.config_of(_values(args="'factor=8"))


def test_problems_are_escaped_and_labelled() -> None:
    text = problems_html([Problem("bad <script>", "data.folder", "Give data.folder, not train.seed.")])
    assert "<script>" not in text and "<b>Folder of pictures</b>" in text and "--input" not in text
    assert "Give “Folder of pictures”, not “Seed”." in text


TOKEN = "the-token"
API = "/lora-train/api/v1/datasets"


@pytest.fixture
def client(host: StandaloneHost) -> Iterator[Any]:
    from fastapi.testclient import TestClient

    from lora_train.ui.standalone import build_app

    with TestClient(build_app(Service(host), TOKEN), base_url="http://127.0.0.1:7870") as client:
        yield client


def test_the_whole_page_builds(client: Any) -> None:
    page = client.get(f"/{TOKEN}/")
    assert page.status_code == 200
    for script in STATIC_FILES:
        assert f"lora-train/static/{script}" in page.text
        assert client.get(f"/{TOKEN}/lora-train/static/{script}").status_code == 200
    config = str(client.get(f"/{TOKEN}/config").json())
    assert client.get(f"/{TOKEN}{API}").json() == {"datasets": []}
    assert client.get(f"/{TOKEN}/", headers={"host": "localhost:7870"}).status_code == 200
    assert client.get(f"/{TOKEN}{API}", headers={"host": "evil.example:7870"}).status_code == 400
    for elem_id in ("lora_train_start", "lora_train_live", "lora_train_prompt", "lora_train_model"):
        assert elem_id in config
    for elem_id in ("lora_train_prepare", "lora_train_dataset", "lora_train_operation_similar"):
        assert elem_id in config


@pytest.mark.parametrize(
    "path", ["/", "/config", API, "/another/config", f"/x/{TOKEN}{API}", "/lora-train/static/style.css"]
)
def test_without_the_token_of_this_start_nothing_is_there(client: Any, path: str) -> None:
    """Any account of this machine reaches the server."""
    for headers in ({}, {PAGE_HEADER: "another"}, {"accept": "text/html"}):
        answer = client.get(path, headers=headers)
        assert answer.status_code == 401 and TOKEN not in answer.text
        assert "Open the whole address that was printed" in answer.text


def test_a_command_is_not_run_for_a_stranger(client: Any, host: StandaloneHost, pictures: Path) -> None:
    options = {
        "operations": ["interrogate"],
        "captioner": "command",
        "captioner_command": "touch /tmp/x",
        "min_size": 0,
    }
    assert client.post(f"{API}/prepare", json={"folder": str(pictures), "options": options}).status_code == 401
    for path in ("run/predict", "queue/join", "gradio_api/queue/join", "gradio_api/run/predict"):
        assert client.post(f"/{path}", json={"fn_index": 0, "data": []}).status_code == 401
    assert not host.data_dir().exists()


def test_a_program_may_send_the_token_in_the_header(client: Any) -> None:
    assert client.get(API, headers={PAGE_HEADER: TOKEN}).json() == {"datasets": []}


def test_a_websocket_wants_the_token_as_well(host: StandaloneHost) -> None:
    from fastapi.testclient import TestClient
    from starlette.websockets import WebSocketDisconnect

    app = FastAPI()
    app.add_middleware(Gate, token=TOKEN)

    @app.websocket("/{where:path}/join")
    async def join(websocket: WebSocket, where: str) -> None:
        await websocket.accept()
        await websocket.send_text(where)

    client = TestClient(app)
    with pytest.raises(WebSocketDisconnect), client.websocket_connect("/queue/join") as refused:
        refused.receive_text()
    with client.websocket_connect(f"/{TOKEN}/join") as connection:
        assert connection.receive_text() == TOKEN


def test_every_start_has_a_token_of_its_own() -> None:
    assert new_token() != new_token() and len(new_token()) >= 32


def test_the_browser_is_opened_with_a_file_that_nobody_else_reads(tmp_path: Path) -> None:
    with only_for_me(tmp_path / "data", "http://127.0.0.1:7870/the-token/") as path:
        assert 'url=http://127.0.0.1:7870/the-token/"' in path.read_text()
        if os.name == "posix":
            assert path.stat().st_mode & 0o077 == 0
    assert not path.exists()


def test_the_form_of_a_preparation() -> None:
    untouched: dict[str, Any] = dict.fromkeys((*NUMBERS, *TEXTS, *LOOKS), "") | dict.fromkeys(OPERATIONS, False)
    untouched |= {"captioner": "blip", "tagger": "deepbooru", "recaption": False}
    assert options_of(untouched) == PrepareOptions()
    chosen = options_of(
        untouched | {"square": True, "face": True, "target": "768", "min_range": "0,2", "min_size": "0"}
    )
    assert chosen.operations == ("face", "square")
    assert (chosen.target, chosen.min_range, chosen.min_size) == (768, 0.2, 0)
    said = options_of(untouched | {"tagger": "wd14", "tagger_model": " /tagger ", "tag_blacklist": "1girl, *hair,"})
    assert (said.tagger, said.tagger_model, said.tag_blacklist) == ("wd14", "/tagger", ("1girl", "*hair"))
    for options in (PrepareOptions(), chosen, said):
        assert options_of(values_of(options)) == options
    for name in (*NUMBERS, *TEXTS, *LOOKS):
        text = {"background": "red", "caption_template": "{tag}", "tag_blacklist": "hat"}.get(name, "1")
        value: Any = ("hat",) if name == "tag_blacklist" else int(text) if name in NUMBERS else text
        assert options_of(untouched | {name: text}) == replace(PrepareOptions(), **{name: value}), name
    for name in OPERATIONS:
        assert options_of(untouched | {name: True}).operations == (name,)
    with pytest.raises(LoraTrainError) as told:
        options_of(untouched | {"target": "large", "body_parts": "1.5"})
    assert [problem.where for problem in told.value.problems] == ["prepare.target", "prepare.body_parts"]


def test_the_tab_of_a_webui_has_both_pages(host: StandaloneHost) -> None:
    from lora_train.ui.webui_tab import build_tab

    blocks, title, _ = build_tab(Service(host), "a-token")
    config = str(blocks.get_config_file())
    assert title == "Train LoRA" and config.index("lora_train_dataset_tab") < config.index("lora_train_train_tab")
    assert 'id="lora_train_dataset"' in config and config.count('data-page="a-token"') == 2
    assert "data-labels=" in config and "train.lr_warmup_steps" in config


def test_the_changes_to_captions_on_the_page_are_the_tables() -> None:
    told = json.loads(edits_json())
    assert told["add"] == [
        "Add tags",
        {"tags": ["Tags", "sara, red hair"], "where": ["Where", "", {"front": "in front", "back": "at the back"}]},
    ]
    assert [*told] == [one.operation for one in EDITS] and told["plain"][1] == {}
    assert html.escape(edits_json()) in view_html("token")

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from PIL import Image

from lora_train.api.routes import PREFIX, routes, static_routes
from lora_train.config import RunConfig
from lora_train.config.table import COMMANDS, in_section
from lora_train.hosts.standalone import StandaloneHost
from lora_train.runs.folder import RunFolder
from lora_train.runs.service import Service
from tests.runs.test_service import wait_for_step

JSON = {"content-type": "application/json"}


@pytest.fixture
def service(host: StandaloneHost) -> Service:
    return Service(host)


@pytest.fixture
def client(service: Service) -> TestClient:
    app = FastAPI()
    app.include_router(routes(service))
    app.include_router(static_routes())
    return TestClient(app)


def test_a_run_over_the_routes(client: TestClient, service: Service, make_config: Callable[..., RunConfig]) -> None:
    assert client.get(f"{PREFIX}/runs/latest").json() is None
    save = {"output_dir": str(service.host.lora_dir())}
    body: dict[str, Any] = make_config(train={"max_train_steps": 100_000}, save=save).to_dict()
    body["preview"] = {"prompts": ["sks"], "steps": 1}
    run_id = client.post(f"{PREFIX}/runs", json=body).json()["id"]
    wait_for_step(service.run(run_id), 2)
    answer = client.get(f"{PREFIX}/runs/{run_id}/events").json()
    assert answer["run"]["running"] and answer["run"]["name"] == "sara"
    more = client.get(f"{PREFIX}/runs/{run_id}/events", params={"since": answer["next"]}).json()
    assert more["next"] >= answer["next"]
    picture = client.get(f"{PREFIX}/runs/{run_id}/samples/step00000000-0.png")
    assert picture.headers["content-type"] == "image/png"
    assert client.post(f"{PREFIX}/runs/{run_id}/stop", json={}).json() == {"stopping": True}
    assert service.wait(60)
    assert client.get(f"{PREFIX}/runs/{run_id}").json()["state"] == "stopped"
    assert client.get(f"{PREFIX}/runs").json()[0]["id"] == run_id


def test_a_lora_is_written_below_the_hosts_folders_only(
    client: TestClient, service: Service, make_config: Callable[..., RunConfig], tmp_path: Path
) -> None:
    data = service.host.data_dir()
    data.mkdir()
    (data / "link").symlink_to(tmp_path)
    for folder in (tmp_path / "loras", data / ".." / "loras", data / "link", Path("/"), Path("loras")):
        body = make_config(save={"output_dir": str(folder)}, train={"max_train_steps": 0}).to_dict()
        answer = client.post(f"{PREFIX}/runs", json=body)
        assert answer.status_code == 422
        assert {p["where"] for p in answer.json()["problems"]} == {"save.output_dir", "train.max_train_steps"}
    assert (
        client.post(f"{PREFIX}/runs", content='{"save": {"output_dir": "a\\u0000b"}}', headers=JSON).status_code == 422
    )
    assert not service.runs_dir.exists()


def test_latents_are_written_beside_pictures_below_the_hosts_folders_only(
    client: TestClient, service: Service, make_config: Callable[..., RunConfig], tmp_path: Path
) -> None:
    def asked(*operations: str, **data: Any) -> set[str]:
        body = make_config(data={"write_npz": True} | data, train={"max_train_steps": 0}).to_dict()
        answer = client.post(f"{PREFIX}/runs", json=body | {"prepare": body["prepare"] | {"operations": operations}})
        found = {problem["where"] for problem in answer.json()["problems"]}
        return found - {"save.output_dir", "train.max_train_steps"}

    assert asked() == {"data.write_npz"}
    assert asked(write_npz=False) == set()
    assert asked("original") == set()
    own = service.host.data_dir() / "pictures"
    own.mkdir(parents=True)
    Image.new("RGB", (64, 64)).save(own / "a.png")
    assert asked(folder=str(own)) == set()


def test_the_base_in_use(client: TestClient, host: StandaloneHost) -> None:
    assert client.get(f"{PREFIX}/base").json() == {"path": str(host.current_checkpoint())}


def test_what_calls_the_lora_in_a_prompt(
    client: TestClient, service: Service, make_config: Any, tmp_path: Path
) -> None:
    run = RunFolder.create(service.runs_dir, make_config())
    assert client.get(f"{PREFIX}/runs/latest").json()["activation"] == "sks"
    run.update(result=str(tmp_path / "sara.safetensors"))
    (tmp_path / "sara.json").write_text('{"activation text": "sks, red hat"}')  # changed by a person
    assert client.get(f"{PREFIX}/runs/latest").json()["activation"] == "sks, red hat"
    (tmp_path / "sara.json").write_text('{"activation text": 3}')
    assert client.get(f"{PREFIX}/runs/latest").json()["activation"] == "sks"


def test_problems_come_as_data(client: TestClient) -> None:
    answer = client.post(f"{PREFIX}/runs", json={"train": {"max_train_steps": 0}})
    assert answer.status_code == 422
    assert {p["where"] for p in answer.json()["problems"]} >= {"train.max_train_steps", "model.path", "data.folder"}
    assert client.post(f"{PREFIX}/runs", json={"x": 1}).status_code == 422
    assert client.post(f"{PREFIX}/runs", json=[1]).status_code == 400
    assert client.get(f"{PREFIX}/runs/none").status_code == 404


def test_other_commands_have_schemas_too(client: TestClient) -> None:
    for command in COMMANDS:
        told = client.get(f"{PREFIX}/schema/{command}").json()
        assert {*told["properties"]} == {one.name for one in in_section(command)}
    assert told["properties"]["where"]["enum"] == ["front", "back"]
    assert client.get(f"{PREFIX}/schema/nothing").status_code == 404


def test_the_options_of_a_run_are_described(client: TestClient) -> None:
    said = client.get(f"{PREFIX}/schema").json()
    assert said["properties"]["train"]["properties"]["seed"]["default"] == RunConfig().train.seed
    document = {
        section: {name: one["default"] for name, one in described["properties"].items()}
        for section, described in said["properties"].items()
        if section != "version"
    }
    assert RunConfig.from_dict(document) == RunConfig()
    # as the description says, the LoRA then goes to the host's folder
    found = {problem["where"] for problem in client.post(f"{PREFIX}/runs", json=document).json()["problems"]}
    assert found == {"model.path", "data.folder", "save.output_name"}


def test_other_sites_cannot_post(client: TestClient) -> None:
    for path in ("runs", "runs/x/stop"):
        for kind in ("text/plain", "application/x-www-form-urlencoded"):
            assert client.post(f"{PREFIX}/{path}", content="{}", headers={"content-type": kind}).status_code == 415


@pytest.mark.parametrize("name", ["..%2frun.json", "run.json", "step1-1.png", "%2e%2e/run.json"])
def test_no_other_files_are_served(client: TestClient, service: Service, make_config: Any, name: str) -> None:
    run = RunFolder.create(service.runs_dir, make_config())
    assert client.get(f"{PREFIX}/runs/{run.id}/samples/{name}").status_code in (404, 405)


def test_static_files(client: TestClient) -> None:
    for name in ("lora_train.js", "uPlot.iife.min.js", "style.css"):
        assert client.get(f"/lora-train/static/{name}").status_code == 200
    assert client.get("/lora-train/static/..%2fpyproject.toml").status_code == 404
    assert client.get("/lora-train/static/install.py").status_code == 404


def test_numbers_that_json_does_not_have_are_null(client: TestClient, service: Service, make_config: Any) -> None:
    """fp16's skipped steps report an infinite gradient."""
    run = RunFolder.create(service.runs_dir, make_config())
    run.event("step", step=1, grad_norm=math.inf, smoothed=math.nan, learning_rates={"lora_unet": math.nan})
    with (run.path / "events.jsonl").open("a") as file:
        file.write('{"kind": "step", "grad_norm": Infinity}\n')  # as it was written before
    answer = client.get(f"{PREFIX}/runs/{run.id}/events")
    assert answer.status_code == 200
    first, second = answer.json()["events"]
    assert (first["step"], first["grad_norm"], first["smoothed"]) == (1, None, None)
    assert first["learning_rates"] == {"lora_unet": None} and second["grad_norm"] is None
    assert "Infinity" not in (run.path / "events.jsonl").read_text().splitlines()[0]


@pytest.mark.parametrize("content", ["[" * 200_000, '{"a":' * 500 + "1" + "}" * 500, "{", b"\xff\xfe", "NaN"])
@pytest.mark.parametrize("path", ["runs", "runs/x/stop", "runs/x/resume", "datasets/prepare", "datasets/x/apply"])
def test_what_is_no_json_is_a_bad_request(client: TestClient, path: str, content: Any) -> None:
    answer = client.post(f"{PREFIX}/{path}", content=content, headers={"content-type": "application/json"})
    assert answer.status_code == 400, answer.text


def test_half_characters_in_a_request_are_answered(client: TestClient) -> None:
    for path, content in (("runs", '{"data": {"folder": "\\ud800"}}'), ("datasets/prepare", '{"folder": "\\ud800"}')):
        answer = client.post(f"{PREFIX}/{path}", content=content, headers={"content-type": "application/json"})
        assert answer.status_code == 422 and answer.json()["problems"]


def test_orders_to_a_run_that_is_not_there_or_that_nobody_reads(client: TestClient, service: Service) -> None:
    run = RunFolder.create(service.runs_dir, RunConfig())
    assert client.post(f"{PREFIX}/runs/nobody/stop", json={}).status_code == 404
    for order, content in (("stop", {"now": True}), ("resume", {"step": 5})):
        answer = client.post(f"{PREFIX}/runs/{run.id}/{order}", json=content)
        assert answer.status_code == 422
        assert [problem["where"] for problem in answer.json()["problems"]] == list(content)


def test_a_run_is_known_by_its_whole_id(client: TestClient, service: Service, make_config: Any) -> None:
    run = RunFolder.create(service.runs_dir, make_config())
    assert client.get(f"{PREFIX}/runs/{run.id}").status_code == 200
    for part in (run.id[1:], run.id[-4:], run.id[:-1], run.id.upper(), run.id + "x"):
        for path in (part, f"{part}/events", f"{part}/samples/step1-0.png"):
            assert client.get(f"{PREFIX}/runs/{path}").status_code == 404
        assert client.post(f"{PREFIX}/runs/{part}/stop", json={}).status_code == 404


def test_events_are_given_from_a_number_on(client: TestClient, service: Service, make_config: Any) -> None:
    run = RunFolder.create(service.runs_dir, make_config())
    for number in range(3):
        run.event("note", text=str(number))

    def since(number: int) -> tuple[list[str], int]:
        answer = client.get(f"{PREFIX}/runs/{run.id}/events", params={"since": number}).json()
        return [event["text"] for event in answer["events"]], answer["next"]

    assert since(0) == (["0", "1", "2"], 3)
    assert since(2) == (["2"], 3)
    assert since(3) == ([], 3)
    assert since(-1) == (["0", "1", "2"], 3)


@pytest.mark.parametrize("steps", [True, "5", 5.5, [5]])
def test_steps_are_a_whole_number(client: TestClient, service: Service, make_config: Any, steps: Any) -> None:
    run = RunFolder.create(service.runs_dir, make_config())
    answer = client.post(f"{PREFIX}/runs/{run.id}/resume", json={"steps": steps})
    assert answer.status_code == 422 and "whole number" in answer.json()["problems"][0]["what"]
    assert not service.busy


def test_a_run_killed_in_its_first_second_is_resumed(
    client: TestClient, service: Service, make_config: Callable[..., RunConfig]
) -> None:
    """From its own configuration, since no state was saved yet."""
    folder = RunFolder.create(service.runs_dir, make_config(train={"max_train_steps": 1}))
    (told,) = client.get(f"{PREFIX}/runs").json()
    assert (told["id"], told["state"], told["can_resume"], told["has_state"]) == (folder.id, "interrupted", True, False)
    assert client.post(f"{PREFIX}/runs/{folder.id}/resume", json={"steps": 2}).json() == {"resuming": True}
    assert service.wait(60)
    told = client.get(f"{PREFIX}/runs/latest").json()
    assert (told["id"], told["state"], told["steps_done"], told["can_resume"]) == (folder.id, "finished", 2, False)

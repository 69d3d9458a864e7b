"""The routes of the *Dataset* page."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from PIL import Image

from lora_train import patterns
from lora_train.api import datasets
from lora_train.api.routes import PREFIX, routes
from lora_train.hosts.access import PAGE_HEADER, Login
from lora_train.hosts.standalone import StandaloneHost
from lora_train.runs.service import Service
from tests.prepare.samples import noise

OPTIONS = {"operations": ["original", "similar", "resize"], "target": 64, "min_size": 100, "workers": 1}


@pytest.fixture
def service(host: StandaloneHost) -> Service:
    return Service(host)


@pytest.fixture
def client(service: Service) -> TestClient:
    app = FastAPI()
    app.include_router(routes(service))
    return TestClient(app)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "sara"
    folder.mkdir()
    for number in range(3):
        noise(number).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text("woman, hat\n")
    noise(5, (80, 60)).save(folder / "small.png")
    (folder / "broken.png").write_text("no picture")
    return folder


@pytest.fixture
def at(client: TestClient, service: Service, folder: Path) -> str:
    """The address of a prepared dataset."""
    answer = client.post(f"{PREFIX}/datasets/prepare", json={"folder": str(folder), "options": OPTIONS})
    assert answer.status_code == 201 and service.datasets.wait(60)
    return f"{PREFIX}/datasets/{answer.json()['id']}"


def keys(client: TestClient, at: str) -> dict[str, str]:
    return {one["file"]: one["key"] for one in client.get(f"{at}/pictures").json()["pictures"]}


def test_status_and_pages(client: TestClient, at: str, folder: Path) -> None:
    status = client.get(at).json()
    assert status["counts"]["kept"] == 3 and status["folder"] == str(folder) and not status["preparing"]
    assert [one["id"] for one in client.get(f"{PREFIX}/datasets").json()["datasets"]] == [at.rsplit("/", 1)[1]]
    page = client.get(f"{at}/pictures", params={"start": 1, "count": 2}).json()
    assert page["total"] == 5 and [one["file"] for one in page["pictures"]] == ["1.png", "2.png"]
    page = client.get(f"{at}/pictures", params={"outcome": "rejected", "rule": "too small"}).json()
    assert [one["reason"] for one in page["pictures"]] == [
        "the picture is only 80 px wide; needs 100; switch on upscale"
    ]
    assert client.get(f"{at}/pictures", params={"outcome": "nonsense"}).status_code == 422


def test_pictures_are_served_small_and_large(client: TestClient, at: str) -> None:
    named = keys(client, at)
    for what, size in (("thumbnail", (160, 120)), ("source", (160, 120)), ("result", (64, 48))):
        answer = client.get(f"{at}/pictures/{named['0.png']}/{what}")
        assert answer.headers["content-type"] == "image/jpeg"
        picture = Image.open(io.BytesIO(answer.content))
        assert max(picture.size) <= max(size) and picture.width * size[1] == picture.height * size[0]
    for file, what in (("broken.png", "source"), ("broken.png", "thumbnail"), ("small.png", "result")):
        assert client.get(f"{at}/pictures/{named[file]}/{what}").status_code == 404


def test_overrule(client: TestClient, at: str, service: Service) -> None:
    key = keys(client, at)["small.png"]
    answer = client.post(f"{at}/pictures/{key}/overrule", json={"keep": True}).json()
    assert answer["picture"]["outcome"] == "kept" and answer["waits"] == ""
    assert service.datasets.wait(60) and client.get(f"{at}/pictures/{key}/result").status_code == 200
    assert client.post(f"{at}/pictures/{key}/overrule", json={"keep": "yes"}).status_code == 422
    broken = client.post(f"{at}/pictures/{keys(client, at)['broken.png']}/overrule", json={"keep": True})
    assert broken.status_code == 422 and "nothing to keep" in broken.json()["problems"][0]["what"]
    assert client.post(f"{at}/apply", json={}).json() == {"preparing": True} and service.datasets.wait(60)


def test_an_edit_of_all_says_what_it_leaves_alone(client: TestClient, at: str, service: Service) -> None:
    pictures = service.datasets.all()[0].pictures
    (pictures / "2.txt").unlink()
    (pictures / "1.txt").write_bytes(b"\xff\xfe\x00")
    edits = {"edits": [{"operation": "add", "tags": "sks"}]}
    for path, changed in (("preview", "total"), ("edit", "changed")):
        told = client.post(f"{at}/captions/{path}", json=edits).json()
        assert (told[changed], told["uncaptioned"]) == (1, 1)
        assert [(one["file"], one["reason"]) for one in told["skipped"]] == [("1.txt", "it is not UTF-8 text")]


def test_captions(client: TestClient, at: str) -> None:
    key = keys(client, at)["1.png"]
    answer = client.put(f"{at}/pictures/{key}/caption", json={"caption": "man"}).json()
    assert answer["picture"]["caption"] == "man" and answer["undo"] == "caption of 1.png"
    assert client.get(f"{at}/captions/tags").json()["tags"] == [["hat", 2], ["woman", 2], ["man", 1]]
    edits = {
        "edits": [{"operation": "replace", "pattern": "wo(man)", "by": "\\1"}, {"operation": "add", "tags": "sks"}]
    }
    preview = client.post(f"{at}/captions/preview", json=edits).json()
    assert preview["total"] == 3 and (preview["uncaptioned"], preview["skipped"]) == (0, [])
    assert preview["changes"][0] == {"file": "0.txt", "before": "woman, hat\n", "after": "sks, man, hat\n"}
    assert client.get(f"{at}/pictures/{key}").json()["caption"] == "man"
    assert client.post(f"{at}/captions/edit", json=edits).json()["changed"] == 3
    assert client.get(f"{at}/pictures/{key}").json()["caption"] == "sks, man"
    assert client.post(f"{at}/captions/undo", json={}).json()["undo"] == "caption of 1.png"
    assert client.get(f"{at}/pictures/{key}").json()["caption"] == "man"
    assert client.post(f"{at}/captions/beside", json={}).json() == {"written": 1}


def test_a_pattern_that_never_ends_is_told_and_nothing_changes(
    client: TestClient, at: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patterns, "SECONDS", 0.5)
    caption = "a" * 60 + "!"
    assert client.put(f"{at}/pictures/{keys(client, at)['1.png']}/caption", json={"caption": caption}).is_success
    for what in ("preview", "edit"):
        edits = {"edits": [{"operation": "replace", "pattern": "(a+)+$", "by": ""}]}
        answer = client.post(f"{at}/captions/{what}", json=edits)
        problem = answer.json()["problems"][0]
        assert answer.status_code == 422 and "(a+)+$" in problem["where"] and "takes too long" in problem["what"]
    assert client.get(f"{at}/captions/tags").json()["undo"] == "caption of 1.png"


@pytest.mark.parametrize(
    "edits",
    [None, [], [1], [{"operation": "delete"}], [{"operation": "add"}], [{"operation": "add", "tags": 1}],
     [{"operation": "add", "tags": " "}], [{"operation": "add", "tags": "a", "where": "under"}],
     [{"operation": "replace", "pattern": "(", "by": ""}], [{"operation": "deduplicate", "tags": "a"}],
     [{"operation": "reorder", "order": "odd"}]],
)  # fmt: skip
def test_faulty_edits_are_told(client: TestClient, at: str, edits: Any) -> None:
    for what in ("preview", "edit"):
        answer = client.post(f"{at}/captions/{what}", json={"edits": edits})
        assert answer.status_code == 422 and answer.json()["problems"][0]["what"]
    assert client.get(f"{at}/captions/tags").json()["undo"] == ""


def test_problems_come_as_data(client: TestClient, tmp_path: Path) -> None:
    def wheres(content: Any) -> set[str]:
        answer = client.post(f"{PREFIX}/datasets/prepare", json=content)
        assert answer.status_code == 422
        return {problem["where"] for problem in answer.json()["problems"]}

    assert wheres({"folder": str(tmp_path / "nowhere"), "options": {"target": 1}}) == {"data.folder", "prepare.target"}
    assert wheres({"folder": str(tmp_path), "options": {"targets": 1}}) == {"prepare.targets"}
    assert wheres({"folder": 1}) == {"folder"}
    assert client.post(f"{PREFIX}/datasets/prepare", json=[1]).status_code == 400


def test_no_other_files_are_served(client: TestClient, at: str, tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(noise(1).tobytes())
    for id in ("..", "%2e%2e", "..%2fsara", "../prepared", ".", "none"):
        assert client.get(f"{PREFIX}/datasets/{id}/pictures").status_code == 404
    for key in ("..", "%2e%2e%2f%2e%2e%2fsecret.png", "../../secret.png", "0.png", "0"):
        for what in ("thumbnail", "source", "result"):
            assert client.get(f"{at}/pictures/{key}/{what}").status_code == 404
        assert client.put(f"{at}/pictures/{key}/caption", json={"caption": "x"}).status_code in (404, 405)


def test_a_link_in_the_folder_is_not_a_way_out(
    client: TestClient, at: str, folder: Path, tmp_path: Path, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise(9).save(tmp_path / "elsewhere.png")
    (folder / "link.png").symlink_to(tmp_path / "elsewhere.png")
    client.post(f"{at}/apply", json={})
    assert service.datasets.wait(60)
    key = keys(client, at)["link.png"]
    for what in ("thumbnail", "source", "result"):
        assert client.get(f"{at}/pictures/{key}/{what}").status_code == 200
    monkeypatch.setattr(StandaloneHost, "may_read", lambda _, path: path.resolve().is_relative_to(folder.resolve()))
    for what in ("thumbnail", "source", "result"):
        assert client.get(f"{at}/pictures/{key}/{what}").status_code == 404
        assert client.get(f"{at}/pictures/{keys(client, at)['0.png']}/{what}").status_code == 200


def test_a_forged_report_gives_no_other_file(client: TestClient, at: str, service: Service, tmp_path: Path) -> None:
    key, dataset = keys(client, at)["0.png"], service.datasets.get(at.rsplit("/", 1)[1])
    report = json.loads((dataset.work / "report.json").read_text())
    noise(9).save(tmp_path / "data" / "other.jpg")
    for line in report["pictures"]:
        line |= {"thumbnail": "../../other.jpg", "output": "../../other.jpg", "file": "../data/other.jpg"}
    (dataset.work / "report.json").write_text(json.dumps(report))
    for what in ("thumbnail", "source", "result"):
        assert client.get(f"{at}/pictures/{key}/{what}").status_code == 404
    assert client.put(f"{at}/pictures/{key}/caption", json={"caption": "x"}).status_code == 422
    assert not (tmp_path / "data" / "other.txt").exists()


POSTS = ("prepare", "x/apply", "x/stop", "x/pictures/y/overrule", "x/captions/preview", "x/captions/edit",
         "x/captions/undo", "x/captions/beside")  # fmt: skip


def test_other_sites_cannot_write(client: TestClient) -> None:
    for kind in ("text/plain", "application/x-www-form-urlencoded"):
        for path in POSTS:
            answer = client.post(f"{PREFIX}/datasets/{path}", content="{}", headers={"content-type": kind})
            assert answer.status_code == 415
        caption = f"{PREFIX}/datasets/x/pictures/y/caption"
        assert client.put(caption, content="{}", headers={"content-type": kind}).status_code == 415


def test_the_login_covers_every_route(service: Service) -> None:
    app = FastAPI()
    login = Login(app, "sara:secret")
    app.include_router(routes(service, login))
    client = TestClient(app)
    gets: tuple[str, ...] = ("", "/x", "/x/pictures", "/x/pictures/y", "/x/captions/tags")
    gets += tuple(f"/x/pictures/y/{what}" for what in ("thumbnail", "source", "result"))
    for path in gets:
        assert client.get(f"{PREFIX}/datasets{path}").status_code == 401
    for path in POSTS:
        assert client.post(f"{PREFIX}/datasets/{path}", json={}).status_code == 401
    assert client.put(f"{PREFIX}/datasets/x/pictures/y/caption", json={}).status_code == 401
    assert client.get(f"{PREFIX}/datasets", headers={PAGE_HEADER: login.page_token}).status_code == 200
    assert client.get(f"{PREFIX}/datasets/x?page={login.page_token}").status_code == 404
    assert client.get(f"{PREFIX}/datasets", auth=("sara", "secret")).status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "content", "fields"),
    [
        ("POST", "", {"folder": "x", "operations": ["resize"], "tags": "a"}, {"operations", "tags"}),
        ("POST", "", {"tag": "x"}, {"folder"}),
        ("PUT", "/pictures/KEY/caption", {"text": "a hat"}, {"text", "caption"}),
        ("PUT", "/pictures/KEY/caption", {}, {"caption"}),
        ("POST", "/pictures/KEY/overrule", {"kept": True}, {"kept", "keep"}),
        ("POST", "/pictures/KEY/overrule", {}, {"keep"}),
        ("POST", "/loosen", {"check": "blur"}, {"check", "rule"}),
        ("POST", "/captions/edit", {"edits": [{"operation": "add", "tags": "a"}], "preview": True}, {"preview"}),
        ("POST", "/captions/undo", {"steps": 2}, {"steps"}),
        ("POST", "/apply", {"options": {}}, {"options"}),
    ],
)
def test_a_field_that_nobody_reads_changes_nothing(
    client: TestClient, at: str, method: str, path: str, content: dict[str, Any], fields: set[str]
) -> None:
    key = keys(client, at)["0.png"]
    before = client.get(f"{at}/pictures").json()
    address = at + path.replace("KEY", key) if path else f"{PREFIX}/datasets/prepare"
    answer = client.request(method, address, json=content)
    assert answer.status_code == 422
    assert {problem["where"] for problem in answer.json()["problems"]} == fields
    assert client.get(f"{at}/pictures").json() == before and not client.get(at).json()["preparing"]


def test_how_much_one_request_may_ask_for(client: TestClient, at: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets, "MAX_PAGE", 2)
    monkeypatch.setattr(datasets, "MAX_CAPTION", 5)
    for count, shown in ((1, 1), (2, 2), (3, 2), (0, 0), (-1, 0)):
        page = client.get(f"{at}/pictures", params={"count": count}).json()
        assert (len(page["pictures"]), page["total"]) == (shown, 5)
    assert len(client.get(f"{at}/pictures", params={"start": -3}).json()["pictures"]) == 2
    key = keys(client, at)["0.png"]
    assert client.put(f"{at}/pictures/{key}/caption", json={"caption": "abcde"}).status_code == 200
    answer = client.put(f"{at}/pictures/{key}/caption", json={"caption": "abcdef"})
    assert answer.status_code == 422 and "too long" in answer.json()["problems"][0]["what"]
    assert client.get(f"{at}/pictures/{key}").json()["caption"] == "abcde"


def test_stop_of_a_dataset_that_is_not_there(client: TestClient) -> None:
    assert client.post(f"{PREFIX}/datasets/nobody/stop", json={}).status_code == 404

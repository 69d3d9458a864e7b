"""What holds for every route that there is, by the router's own list: a route that is added is tried as well."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from lora_train.api.routes import PREFIX, routes
from lora_train.hosts.access import PAGE_HEADER, Login
from lora_train.hosts.standalone import StandaloneHost
from lora_train.runs.service import Service


def every_route() -> list[tuple[str, str]]:
    """Method and address of each, with something in place of ids."""
    app = FastAPI()
    app.include_router(routes(Service(StandaloneHost(Path("nowhere")))))
    paths = app.openapi()["paths"]
    return [(method.upper(), re.sub(r"\{[^}]+\}", "x", path)) for path, methods in paths.items() for method in methods]


ROUTES = every_route()
CHANGING = [(method, path) for method, path in ROUTES if method not in ("GET", "HEAD")]


def test_they_are_all_found() -> None:
    assert len(ROUTES) >= 25 and len(CHANGING) >= 12
    assert all(path.startswith(PREFIX) for _, path in ROUTES)
    assert ("POST", f"{PREFIX}/datasets/x/loosen") in ROUTES


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> StandaloneHost:
    return StandaloneHost(tmp_path_factory.mktemp("host") / "data")


@pytest.fixture(scope="module")
def locked(host: StandaloneHost) -> tuple[TestClient, Login]:
    """The routes behind a login."""
    app = FastAPI()
    login = Login(app, "sara:secret")
    app.include_router(routes(Service(host), login))
    return TestClient(app), login


@pytest.fixture(scope="module")
def client(host: StandaloneHost) -> TestClient:
    """The routes where there is no login."""
    app = FastAPI()
    app.include_router(routes(Service(host)))
    return TestClient(app)


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_without_a_login_nothing_is_answered(
    method: str, path: str, locked: tuple[TestClient, Login], host: StandaloneHost
) -> None:
    client, login = locked
    for wrong in ({}, {PAGE_HEADER: "guess"}, {"authorization": "Basic c2FyYTp3cm9uZw=="}):
        assert client.request(method, path, headers=wrong).status_code == 401
    assert client.request(method, path, headers={PAGE_HEADER: login.page_token}).status_code not in (401, 405)
    assert not host.data_dir().exists()


@pytest.mark.parametrize(("method", "path"), CHANGING)
def test_what_a_page_of_another_site_can_send_changes_nothing(
    method: str, path: str, client: TestClient, host: StandaloneHost
) -> None:
    """Of these content types a browser sends a request without asking first."""
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""):
        answer = client.request(method, path, content="{}", headers={"content-type": kind} if kind else {})
        assert answer.status_code == 415
    good = client.request(method, path, content="{}", headers={"content-type": "application/json; charset=utf-8"})
    assert good.status_code in (404, 422)
    assert not host.data_dir().exists()

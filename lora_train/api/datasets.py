"""The routes of the *Dataset* page, below `/lora-train/api/v1/datasets`.

A picture is named by its dataset's id and its key in the report, never by a path. Whoever wants these routes puts them
into a router with the login's check (`routes.routes`).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Depends, HTTPException, Request
from fastapi.responses import FileResponse, JSONResponse, Response
from fastapi.routing import APIRoute

from lora_train.config import PrepareOptions, RunConfig
from lora_train.errors import LoraTrainError
from lora_train.runs.dataset import OUTCOMES, Filter, Unknown, large_jpeg
from lora_train.runs.datasets import Datasets

MAX_PAGE = 500
MAX_CAPTION = 20_000
"""In characters."""
NO_STORE = {"Cache-Control": "no-store"}
KEPT_BY_BROWSER = {"Cache-Control": "private, max-age=86400"}
"""A key names a file's content, so what it shows does not change; a result does, with the options."""


class DatasetRoute(APIRoute):
    """A route whose LoraTrainError becomes 422 with all problems, or 404 where there is no such thing."""

    def get_route_handler(self) -> Callable[[Request], Any]:
        """See APIRoute."""
        handle = super().get_route_handler()

        async def told(request: Request) -> Response:
            try:
                answer: Response = await handle(request)
                return answer
            except LoraTrainError as error:
                content = {"problems": [problem.to_dict() for problem in error.problems]}
                status = 404 if isinstance(error, Unknown) else 422
                return JSONResponse(content, status_code=status, headers=NO_STORE)

        return told


async def json_body(request: Request) -> dict[str, Any]:
    """The request's JSON object. A page of another site cannot send this content type without asking first (CORS)."""
    if request.headers.get("content-type", "").split(";")[0].strip() != "application/json":
        raise HTTPException(415, "send JSON")
    try:
        content = await request.json()
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise HTTPException(400, "the request is not a JSON object")
    return content


def dataset_routes(datasets: Datasets) -> APIRouter:
    """All routes about datasets."""
    router = APIRouter(prefix="/datasets", route_class=DatasetRoute)
    _add_datasets(router, datasets)
    _add_pictures(router, datasets)
    _add_captions(router, datasets)
    return router


def _add_datasets(router: APIRouter, datasets: Datasets) -> None:
    @router.get("")
    def all() -> Response:
        listed = [{"id": one.id, "name": one.folder.name, "folder": str(one.folder)} for one in datasets.all()]
        return _json({"datasets": listed})

    @router.post("/prepare")
    def start(content: dict[str, Any] = Depends(json_body)) -> Response:
        id = datasets.start(_text(content, "folder"), _options(content), _text(content, "tag"))
        return _json({"id": id}, 201)

    @router.get("/{id}")
    def status(id: str) -> Response:
        return _json(datasets.status(id))

    @router.post("/{id}/apply")
    def apply(id: str, _: dict[str, Any] = Depends(json_body)) -> Response:
        datasets.apply(id)
        return _json({"preparing": True})

    @router.post("/{id}/stop")
    def stop(id: str, _: dict[str, Any] = Depends(json_body)) -> Response:
        return _json({"stopping": datasets.stop(id)})


def _add_pictures(router: APIRouter, datasets: Datasets) -> None:
    @router.get("/{id}/pictures")
    def pictures(
        id: str, start: int = 0, count: int = 60, outcome: str = "", rule: str = "", text: str = "", tag: str = ""
    ) -> Response:
        if outcome not in ("", *OUTCOMES):
            raise LoraTrainError(f"there is no outcome {outcome!r}.", "outcome", f"Choose {' or '.join(OUTCOMES)}.")
        wanted = Filter(outcome, rule, text, tag)
        return _json(datasets.get(id).page(max(0, start), min(MAX_PAGE, max(0, count)), wanted))

    @router.get("/{id}/pictures/{key}")
    def picture(id: str, key: str) -> Response:
        return _json(datasets.get(id).picture(key))

    @router.get("/{id}/pictures/{key}/thumbnail")
    def thumbnail(id: str, key: str) -> Response:
        return FileResponse(datasets.get(id).thumbnail(key), media_type="image/jpeg", headers=KEPT_BY_BROWSER)

    @router.get("/{id}/pictures/{key}/source")
    def source(id: str, key: str) -> Response:
        path = datasets.get(id).source(key)
        if not datasets.host.may_read(path):  # a link in the folder may lead anywhere
            raise Unknown("this file is outside the folders that may be used from this page.", key)
        return _large(path, KEPT_BY_BROWSER)

    @router.get("/{id}/pictures/{key}/result")
    def result(id: str, key: str) -> Response:
        return _large(datasets.get(id).result(key), NO_STORE)

    @router.post("/{id}/pictures/{key}/overrule")
    def overrule(id: str, key: str, content: dict[str, Any] = Depends(json_body)) -> Response:
        keep = content.get("keep")
        if keep is not None and not isinstance(keep, bool):
            raise LoraTrainError("keep must be true, false or null.", "keep")
        waits = datasets.overrule(id, key, keep)
        return _json({"picture": datasets.get(id).picture(key), "waits": waits})

    @router.put("/{id}/pictures/{key}/caption")
    def write_caption(id: str, key: str, content: dict[str, Any] = Depends(json_body)) -> Response:
        text = _text(content, "caption")
        if len(text) > MAX_CAPTION:
            raise LoraTrainError("the caption is too long.", "caption", f"At most {MAX_CAPTION} characters.")
        dataset = datasets.get(id)
        dataset.write_caption(key, text)
        return _json({"picture": dataset.picture(key), "undo": dataset.undoable()})


def _add_captions(router: APIRouter, datasets: Datasets) -> None:
    @router.get("/{id}/captions/tags")
    def tags(id: str) -> Response:
        dataset = datasets.get(id)
        return _json({"tags": dataset.tags(), "undo": dataset.undoable()})

    @router.post("/{id}/captions/preview")
    def preview(id: str, content: dict[str, Any] = Depends(json_body)) -> Response:
        return _json(datasets.get(id).preview(_edits(content)))

    @router.post("/{id}/captions/edit")
    def edit(id: str, content: dict[str, Any] = Depends(json_body)) -> Response:
        dataset = datasets.get(id)
        report = dataset.edit(_edits(content))
        return _json({"name": report.name, "changed": len(report.changed), "undo": dataset.undoable()})

    @router.post("/{id}/captions/undo")
    def undo(id: str, _: dict[str, Any] = Depends(json_body)) -> Response:
        dataset = datasets.get(id)
        report = dataset.undo()
        return _json({"name": report.name, "changed": len(report.changed), "undo": dataset.undoable()})

    @router.post("/{id}/captions/beside")
    def beside(id: str, _: dict[str, Any] = Depends(json_body)) -> Response:
        return _json({"written": datasets.get(id).write_beside()})


def _json(content: Any, status: int = 200) -> Response:
    return JSONResponse(content, status_code=status, headers=NO_STORE)


def _large(path: Path, headers: dict[str, str]) -> Response:
    return Response(large_jpeg(path), media_type="image/jpeg", headers=headers)


def _text(content: dict[str, Any], name: str) -> str:
    value = content.get(name, "")
    if not isinstance(value, str) or re.search(r"[\x00]", value):
        raise LoraTrainError(f"{name} must be text.", name)
    return value


def _options(content: dict[str, Any]) -> PrepareOptions:
    """The preparation's options. Raises LoraTrainError that names all unknown fields and wrong types."""
    return RunConfig.from_dict({"prepare": content.get("options", {})}).prepare


def _edits(content: dict[str, Any]) -> list[Any]:
    from lora_train.data.captioning.edit import edit_of

    raw = content.get("edits")
    if not isinstance(raw, list) or not raw or not all(isinstance(one, dict) for one in raw):
        raise LoraTrainError("no edits are given.", "edits", 'Send {"edits": [{"operation": "add", "tags": "a"}]}.')
    return [edit_of(one) for one in raw]

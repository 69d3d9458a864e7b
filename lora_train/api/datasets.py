"""The routes of the *Dataset* page, below `/lora-train/api/v1/datasets`.

A picture is named by its dataset's id and its key in the report, never by a path. These routes belong in a router
that checks the login (`routes.routes`).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Depends
from fastapi.responses import FileResponse, Response

from lora_train.api.answers import NO_STORE, Route, answer, json_body, only
from lora_train.config import PrepareOptions, RunConfig
from lora_train.datasets.dataset import OUTCOMES, Dataset, Filter, large_jpeg
from lora_train.datasets.service import Datasets
from lora_train.errors import LoraTrainError, Unknown

MAX_PAGE = 500
MAX_CAPTION = 20_000
"""In characters."""
KEPT_BY_BROWSER = {"Cache-Control": "private, max-age=86400"}
"""A key identifies a file's content, so its picture does not change; a result does, with the options."""


def dataset_routes(datasets: Datasets) -> APIRouter:
    """All routes about datasets."""
    router = APIRouter(prefix="/datasets", route_class=Route)
    _add_datasets(router, datasets)
    _add_pictures(router, datasets)
    _add_captions(router, datasets)
    return router


def _add_datasets(router: APIRouter, datasets: Datasets) -> None:
    @router.get("")
    def all() -> Response:
        listed = [{"id": one.id, "name": one.folder.name, "folder": str(one.folder)} for one in datasets.all()]
        return answer({"datasets": listed})

    @router.post("/prepare")
    def start(content: dict[str, Any] = Depends(json_body)) -> Response:
        only(content, ["tag", "options"], needed=["folder"])
        id = datasets.start(_text(content, "folder"), _options(content), _text(content, "tag"))
        return answer({"id": id}, 201)

    @router.get("/{id}")
    def status(id: str) -> Response:
        return answer(datasets.status(id))

    @router.post("/{id}/apply")
    def apply(id: str, content: dict[str, Any] = Depends(json_body)) -> Response:
        only(content)
        datasets.apply(id)
        return answer({"preparing": True})

    @router.post("/{id}/loosen")
    def loosen(id: str, content: dict[str, Any] = Depends(json_body)) -> Response:
        only(content, needed=["rule"])
        datasets.loosen(id, _text(content, "rule"))
        return answer({"preparing": True})

    @router.post("/{id}/stop")
    def stop(id: str, content: dict[str, Any] = Depends(json_body)) -> Response:
        only(content)
        datasets.status(id)  # Unknown where there is none
        return answer({"stopping": datasets.stop(id)})


def _add_pictures(router: APIRouter, datasets: Datasets) -> None:
    def _shown(id: str, key: str) -> Dataset:
        """The dataset, where this picture may be shown in any form: a link in the folder may lead anywhere."""
        dataset = datasets.get(id)
        if not datasets.host.may_read(dataset.source(key)):
            raise Unknown("this file is outside the folders that may be used from this page.", key)
        return dataset

    @router.get("/{id}/pictures")
    def pictures(
        id: str, start: int = 0, count: int = 60, outcome: str = "", rule: str = "", text: str = "", tag: str = ""
    ) -> Response:
        if outcome not in ("", *OUTCOMES):
            raise LoraTrainError(f"there is no outcome {outcome!r}.", "outcome", f"Choose {' or '.join(OUTCOMES)}.")
        wanted = Filter(outcome, rule, text, tag)
        return answer(datasets.get(id).page(max(0, start), min(MAX_PAGE, max(0, count)), wanted))

    @router.get("/{id}/pictures/{key}")
    def picture(id: str, key: str) -> Response:
        return answer(datasets.get(id).picture(key))

    @router.get("/{id}/pictures/{key}/thumbnail")
    def thumbnail(id: str, key: str) -> Response:
        return FileResponse(_shown(id, key).thumbnail(key), media_type="image/jpeg", headers=KEPT_BY_BROWSER)

    @router.get("/{id}/pictures/{key}/source")
    def source(id: str, key: str) -> Response:
        return _large(_shown(id, key).source(key), KEPT_BY_BROWSER)

    @router.get("/{id}/pictures/{key}/result")
    def result(id: str, key: str) -> Response:
        return _large(_shown(id, key).result(key), NO_STORE)

    @router.post("/{id}/pictures/{key}/overrule")
    def overrule(id: str, key: str, content: dict[str, Any] = Depends(json_body)) -> Response:
        only(content, needed=["keep"])
        keep = content["keep"]
        if keep is not None and not isinstance(keep, bool):
            raise LoraTrainError("keep must be true, false or null.", "keep")
        waits = datasets.overrule(id, key, keep)
        return answer({"picture": datasets.get(id).picture(key), "waits": waits})

    @router.put("/{id}/pictures/{key}/caption")
    def write_caption(id: str, key: str, content: dict[str, Any] = Depends(json_body)) -> Response:
        only(content, needed=["caption"])
        text = _text(content, "caption")
        if len(text) > MAX_CAPTION:
            raise LoraTrainError("the caption is too long.", "caption", f"At most {MAX_CAPTION} characters.")
        dataset = datasets.get(id)
        dataset.write_caption(key, text)
        return answer({"picture": dataset.picture(key), "undo": dataset.undoable()})


def _add_captions(router: APIRouter, datasets: Datasets) -> None:
    @router.get("/{id}/captions/tags")
    def tags(id: str) -> Response:
        dataset = datasets.get(id)
        return answer({"tags": dataset.tags(), "undo": dataset.undoable()})

    @router.post("/{id}/captions/preview")
    def preview(id: str, content: dict[str, Any] = Depends(json_body)) -> Response:
        return answer(datasets.get(id).preview(_edits(content)))

    @router.post("/{id}/captions/edit")
    def edit(id: str, content: dict[str, Any] = Depends(json_body)) -> Response:
        dataset = datasets.get(id)
        report = dataset.edit(_edits(content))
        about = {"name": report.name, "changed": len(report.changed), "undo": dataset.undoable()}
        return answer(about | dataset.left_alone(report.skipped))

    @router.post("/{id}/captions/undo")
    def undo(id: str, content: dict[str, Any] = Depends(json_body)) -> Response:
        only(content)
        dataset = datasets.get(id)
        report = dataset.undo()
        return answer({"name": report.name, "changed": len(report.changed), "undo": dataset.undoable()})

    @router.post("/{id}/captions/beside")
    def beside(id: str, content: dict[str, Any] = Depends(json_body)) -> Response:
        only(content)
        return answer({"written": datasets.get(id).write_beside()})


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
    from lora_train.captions.edit import edit_of

    only(content, ["edits"])
    raw = content.get("edits")
    if not isinstance(raw, list) or not raw or not all(isinstance(one, dict) for one in raw):
        raise LoraTrainError("no edits are given.", "edits", 'Send {"edits": [{"operation": "add", "tags": "a"}]}.')
    return [edit_of(one) for one in raw]

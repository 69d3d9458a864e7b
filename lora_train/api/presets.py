"""The routes of presets, below `/lora-train/api/v1/presets`; they belong in a router that checks the login."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Depends
from fastapi.responses import Response

from lora_train.api.answers import Route, answer, json_body, only
from lora_train.config import RunConfig
from lora_train.config.presets import import_options, is_foreign
from lora_train.errors import LoraTrainError
from lora_train.hosts.base import Host
from lora_train.presets.kohya_form import exported
from lora_train.presets.store import all_presets, delete_preset, load_preset, save_preset


def preset_routes(host: Host) -> APIRouter:
    """All routes about presets."""
    router = APIRouter(prefix="/presets", route_class=Route)

    @router.get("")
    def all() -> Response:
        return answer({"presets": [one.to_dict() for one in all_presets(host.data_dir())]})

    @router.get("/{name}")
    def one(name: str) -> Response:
        return answer({"config": load_preset(host.data_dir(), name)})

    @router.put("/{name}")
    def save(name: str, content: dict[str, Any] = Depends(json_body)) -> Response:
        only(content, needed=["config"])
        sections, lines = _read(content["config"])
        left = save_preset(host.data_dir(), name, RunConfig.from_dict(sections))
        return answer({"saved": name, "left_out": left, "report": lines})

    @router.delete("/{name}")
    def delete(name: str, content: dict[str, Any] = Depends(json_body)) -> Response:
        only(content)
        delete_preset(host.data_dir(), name)
        return answer({"deleted": name})

    @router.get("/{name}/kohya")
    def kohya(name: str) -> Response:
        made = exported(RunConfig.from_dict(load_preset(host.data_dir(), name)))
        return answer({"options": made.values, "left_out": made.left})

    @router.post("/import")
    def importing(content: dict[str, Any] = Depends(json_body)) -> Response:
        only(content, needed=["content"])
        sections, lines = _read(content["content"])
        return answer({"config": sections, "report": lines})

    return router


def _read(content: Any) -> tuple[dict[str, Any], list[str]]:
    """The options of a preset, ours or another program's, checked, with the report. Raises LoraTrainError."""
    if not isinstance(content, dict):
        raise LoraTrainError("must be a group of options.", "config", "Send what a preset's file contains, as JSON.")
    lines: list[str] = []
    if is_foreign(content):
        imported = import_options(content)
        content, lines = imported.sections(), [*imported.lines()]
    RunConfig.from_dict(content)
    return content, lines

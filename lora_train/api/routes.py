"""The routes below `/lora-train/api/v1`: plain JSON, no pydantic (hosts have either of its two versions).

The page's own JavaScript follows a run through them, so no request stays open for long.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Depends, HTTPException, Request
from fastapi.responses import FileResponse, Response

from lora_train.api.answers import Route, answer, json_body, only, refusal
from lora_train.api.datasets import dataset_routes
from lora_train.api.presets import preset_routes
from lora_train.config import RunConfig
from lora_train.config.schema import command_schema, schema
from lora_train.config.table import COMMANDS
from lora_train.errors import LoraTrainError, Unknown
from lora_train.hosts.access import Login
from lora_train.lorafile.sidecar import activation_text
from lora_train.runs.check import output_outside
from lora_train.runs.folder import RunFolder, list_runs
from lora_train.runs.service import Service

PREFIX = "/lora-train/api/v1"

STATIC_FILES = {
    "uPlot.iife.min.js": "text/javascript",
    "lora_train.js": "text/javascript",
    "lora_train_runs.js": "text/javascript",
    "lora_train_dataset.js": "text/javascript",
    "lora_train_grid.js": "text/javascript",
    "lora_train_card.js": "text/javascript",
    "lora_train_captions.js": "text/javascript",
    "lora_train_search.js": "text/javascript",
    "style.css": "text/css",
}


def run_summary(run: RunFolder, service: Service) -> dict[str, Any]:
    """What lists and the live view show about a run."""
    content = run.read()
    config = content.get("config", {})
    return {
        "id": run.id,
        "name": config.get("save", {}).get("output_name", ""),
        "state": service.state_of(run),
        "created": content.get("created"),
        "steps": content.get("steps"),
        "result": content.get("result"),
        "activation": _activation(content, service),
        "steps_done": content.get("steps_done"),
        "problems": content.get("problems") if content.get("state") == "failed" else None,
        "has_state": run.saved_state is not None,
        "running": service.is_running(run.id),
        "can_resume": run.can_resume and not service.busy,
    }


def _activation(run: dict[str, Any], service: Service) -> str:
    """The LoRA's trigger words: its card's text, which a person may have changed, else the run's tag."""
    result, tag = run.get("result"), run.get("config", {}).get("data", {}).get("tag", "")
    return str((activation_text(Path(result), service.host.may_read) if result else "") or tag)


def routes(service: Service, login: Login | None = None) -> APIRouter:
    """All routes, behind the host's `login` where it has one; without it they answer 401."""

    def check(request: Request) -> None:
        if login is not None and not login.allows(request.headers, request.cookies, request.query_params):
            raise HTTPException(401, "log in to the WebUI first")

    router = APIRouter(prefix=PREFIX, dependencies=[Depends(check)], route_class=Route)

    @router.get("/runs")
    def runs() -> Response:
        return answer([run_summary(run, service) for run in list_runs(service.runs_dir)])

    @router.post("/runs")
    def start(content: dict[str, Any] = Depends(json_body)) -> Response:
        config = RunConfig.from_dict(content)
        if not config.save.output_dir:
            config = replace(config, save=replace(config.save, output_dir=str(service.host.lora_dir())))
        return answer({"id": service.start(config, known=output_outside(config, service.host))}, 201)

    @router.get("/schema")
    def options() -> Response:
        return answer(schema())

    @router.get("/schema/{command}")
    def options_of_command(command: str) -> Response:
        if command not in COMMANDS:
            raise Unknown(
                "there is no such command with options of its own.", command, f"There are: {', '.join(COMMANDS)}."
            )
        return answer(command_schema(command))

    @router.get("/base")
    def base() -> Response:
        return answer({"path": str(service.host.current_checkpoint() or "")})

    @router.get("/runs/latest")
    def latest() -> Response:
        run = service.latest()
        return answer(run_summary(run, service) if run is not None else None)

    @router.get("/runs/{run_id}")
    def one(run_id: str) -> Response:
        return answer(service.run(run_id).read())

    @router.get("/runs/{run_id}/events")
    def events(run_id: str, since: int = 0) -> Response:
        run = service.run(run_id)
        found = run.events(max(0, since))
        return answer({"run": run_summary(run, service), "events": found, "next": max(0, since) + len(found)})

    @router.post("/runs/{run_id}/stop")
    def stop(run_id: str, content: dict[str, Any] = Depends(json_body)) -> Response:
        only(content)
        service.run(run_id)  # Unknown where there is none
        return answer({"stopping": service.stop(run_id)})

    @router.post("/runs/{run_id}/resume")
    def resume(run_id: str, content: dict[str, Any] = Depends(json_body)) -> Response:
        only(content, ["steps"])
        steps = content.get("steps")
        if steps is not None and (not isinstance(steps, int) or isinstance(steps, bool)):
            raise LoraTrainError("steps must be a whole number.", "steps")
        service.resume(run_id, steps)
        return answer({"resuming": True})

    @router.get("/runs/{run_id}/samples/{name}")
    def sample(run_id: str, name: str) -> Response:
        path = service.run(run_id).path / "samples" / name
        if not re.fullmatch(r"step\d+-\d+\.png", name) or not path.is_file():
            raise Unknown("there is no such picture.", name)
        return FileResponse(path, media_type="image/png")

    router.include_router(dataset_routes(service.datasets))
    router.include_router(preset_routes(service.host))
    return router


def static_routes() -> APIRouter:
    """The live view's script and style, for the page that has no WebUI to serve them."""
    router = APIRouter(prefix="/lora-train/static")
    root = Path(__file__).resolve().parents[2]

    @router.get("/{name}")
    def static(name: str) -> Response:
        folder = root if name.endswith(".css") else root / "javascript"
        if name not in STATIC_FILES or not (folder / name).is_file():
            return refusal(LoraTrainError("there is no such file.", name), 404)
        return FileResponse(folder / name, media_type=STATIC_FILES[name])

    return router

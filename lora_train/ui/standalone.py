"""The page without a WebUI: three tabs on one local server."""

from __future__ import annotations

import inspect
import sys
import threading
import webbrowser
from collections.abc import Callable
from typing import Any

import gradio as gr
from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, Response

from lora_train.api.routes import routes, static_routes
from lora_train.demo.files import pictures_folder
from lora_train.demo.mascot import TAG
from lora_train.errors import LoraTrainError
from lora_train.hosts.standalone import StandaloneHost
from lora_train.runs.service import Service
from lora_train.ui.dataset_tab import DatasetTab
from lora_train.ui.gate import Gate, new_token, only_for_me
from lora_train.ui.generate_tab import GenerateTab
from lora_train.ui.train_tab import Defaults, TrainTab

HEAD = """
<link rel="stylesheet" href="lora-train/static/style.css">
<script src="lora-train/static/uPlot.iife.min.js"></script>
<script src="lora-train/static/lora_train.js"></script>
<script src="lora-train/static/lora_train_runs.js"></script>
<script src="lora-train/static/lora_train_dataset.js"></script>
<script src="lora-train/static/lora_train_grid.js"></script>
<script src="lora-train/static/lora_train_card.js"></script>
<script src="lora-train/static/lora_train_captions.js"></script>
<script src="lora-train/static/lora_train_search.js"></script>
"""
TRAIN = "train"


def build_page(service: Service, token: str = "") -> gr.Blocks:
    """The page's blocks: *Dataset*, *Train LoRA* and *Generate*. *Train LoRA* is shown first, as the shortest way.

    Requests of the page's own scripts carry `token`.
    """
    model = str(service.host.current_checkpoint() or "")
    defaults = Defaults(model, str(pictures_folder()), TAG) if model else Defaults()
    accepts_head = "head" in inspect.signature(gr.Blocks.__init__).parameters
    head = {"head": HEAD} if accepts_head else {}
    with (
        gr.Blocks(title="LoRA Train", analytics_enabled=False, **head) as page,
        gr.Tabs(selected=TRAIN, elem_id="lora_train_tabs"),
    ):
        with gr.Tab("Dataset", id="dataset", elem_id="lora_train_dataset_tab"):
            DatasetTab(service, token, defaults.folder)
        with gr.Tab("Train LoRA", id=TRAIN, elem_id="lora_train_tab"):
            TrainTab(service, defaults, token)
        with gr.Tab("Generate", id="generate", elem_id="lora_train_generate_tab") as generate:
            GenerateTab(service).refresh_when(generate.select)
    return page


def build_app(service: Service, token: str) -> FastAPI:
    """The whole server, usable only with `token` (see `Gate`): the page at `/TOKEN/`, with its scripts and routes.

    The routes are at their own addresses as well, for programs that send the token in the page's header. The server
    answers only to this machine's own names: a foreign page can make a name of its own resolve to it ("DNS rebinding").
    """
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    app = FastAPI(title="LoRA Train", docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(Gate, token=token)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1", "localhost"])
    for below in ("", f"/{token}"):
        app.include_router(routes(service), prefix=below)
    app.include_router(static_routes(), prefix=f"/{token}")
    options: dict[str, Any] = {}
    if "head" in inspect.signature(gr.mount_gradio_app).parameters:
        options["head"] = HEAD
    elif "head" not in inspect.signature(gr.Blocks.__init__).parameters:

        @app.middleware("http")
        async def scripts(request: Request, call_next: Callable[[Request], Any]) -> Response:
            answer: Response = await call_next(request)
            return await with_head(answer) if request.url.path == f"/{token}/" else answer

    return gr.mount_gradio_app(app, build_page(service, token), path=f"/{token}", **options)


async def with_head(answer: Any) -> Response:
    """The page with our scripts, for gradio 3, which has no way to add them."""
    if not answer.headers.get("content-type", "").startswith("text/html"):
        return answer  # type: ignore[no-any-return]
    content = b"".join([part async for part in answer.body_iterator])
    return HTMLResponse(content.replace(b"</head>", HEAD.encode() + b"</head>", 1), answer.status_code)


def serve(port: int, open_browser: bool) -> None:
    """Run the server for this machine alone until Ctrl-C; a running training is stopped and saved.

    Raises LoraTrainError when the port is taken.
    """
    import signal

    import uvicorn

    if not 1 <= port <= 65_535:
        raise LoraTrainError(
            f"{port} is not a valid port.", "--port", "Give a number from 1024 to 65535, for example 7870."
        )
    if in_use(port):
        raise LoraTrainError(f"the port {port} is in use.", "--port", "Give another, for example --port 7871.")
    service, token = Service(StandaloneHost()), new_token()
    app = build_app(service, token)
    address = f"http://127.0.0.1:{port}/{token}/"
    print(f"LoRA Train is at {address}   (Ctrl-C ends it)", flush=True)
    for name in ("SIGTERM", "SIGHUP"):  # uvicorn ends the server, then raises the signal again
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), _leave)
    try:
        with only_for_me(service.host.data_dir(), address) as shortcut:
            if open_browser:
                threading.Timer(1.0, webbrowser.open, [shortcut.as_uri()]).start()
            uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning", timeout_graceful_shutdown=3)
    finally:
        _save_training(service)


def in_use(port: int) -> bool:
    """Whether a program on this machine already uses this port."""
    import socket

    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _leave(number: int, _frame: Any) -> None:
    raise SystemExit(128 + number)


def _save_training(service: Service) -> None:
    latest = service.latest()
    if service.busy and latest is not None:
        print("Stopping the training and saving ...", file=sys.stderr)
        service.stop(latest.id)
        service.wait(60)
        print(f"Saved: {latest.read().get('result')}", file=sys.stderr)

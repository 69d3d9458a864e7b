"""The tab as a WebUI embeds it: its tabs, its prompt, a login. `python -m tests.ui.webui_page PORT`."""

from __future__ import annotations

import sys
from typing import Any

import gradio as gr
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import Response

from lora_train.api.routes import routes, static_routes
from lora_train.hosts.access import Login
from lora_train.hosts.standalone import StandaloneHost
from lora_train.runs.service import Service
from lora_train.ui.standalone import with_head
from lora_train.ui.webui_tab import build_tab


def build_app(service: Service) -> FastAPI:
    """A page with the tabs *txt2img* and *Train LoRA*; the routes want the page's token, as with a login."""
    login = Login(None, "nobody:knows")
    blocks, title, element = build_tab(service, login.page_token)
    with gr.Blocks(title="Stable Diffusion", analytics_enabled=False) as page, gr.Tabs(elem_id="tabs"):
        with gr.Tab("txt2img", id="txt2img", elem_id="tab_txt2img"):
            gr.Textbox("", label="Prompt", elem_id="txt2img_prompt", lines=3)
        with gr.Tab(title, id=element, elem_id=f"tab_{element}"):
            blocks.render()
    app = FastAPI()
    app.include_router(routes(service, login))
    app.include_router(static_routes())

    @app.middleware("http")
    async def scripts(request: Request, go_on: Any) -> Response:
        return await with_head(await go_on(request)) if request.url.path == "/" else await go_on(request)

    return gr.mount_gradio_app(app, page, path="/")


if __name__ == "__main__":
    uvicorn.run(build_app(Service(StandaloneHost())), host="127.0.0.1", port=int(sys.argv[1]), log_level="warning")

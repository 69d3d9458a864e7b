"""What the WebUI imports: callbacks, nothing else. Everything is in the package `lora_train`.

"Reload UI" runs this file again while the package stays loaded and a training keeps running; the callbacks
find the same service again.
"""

from __future__ import annotations

from modules import script_callbacks, shared

from lora_train.hosts.access import Login
from lora_train.hosts.detect import detect
from lora_train.hosts.webui_options import add_options
from lora_train.runs.session import service_of_process

service = service_of_process(detect)
login = Login(
    None,
    getattr(shared.cmd_opts, "api_auth", None) or "",
    lambda: bool(service.host.settings()["api"]),
)
undo: list = []


def on_ui_tabs() -> list:
    """The tab."""
    from lora_train.ui.webui_tab import build_tab

    return [build_tab(service, login.page_token)]


def on_app_started(_demo: object, app: object) -> None:
    """The routes, and `<lora:...>` where nothing else applies it (all others have registered theirs by now)."""
    from lora_train.api.routes import routes
    from lora_train.hosts.extra_network import install

    login.serve(app)
    app.include_router(routes(service, login))
    undo.append(install(service.host.settings()["apply"], service.host.lora_dir))


def on_script_unloaded() -> None:
    """Leave the WebUI as it was; a training continues."""
    while undo:
        undo.pop()()


script_callbacks.on_ui_settings(add_options)
script_callbacks.on_ui_tabs(on_ui_tabs)
script_callbacks.on_app_started(on_app_started)
script_callbacks.on_script_unloaded(on_script_unloaded)

"""`lora-train ui`: the page."""

from __future__ import annotations

import argparse
from typing import Any


def add_ui(commands: Any) -> None:
    """The command "ui"."""
    ui = commands.add_parser("ui", help="open the page in a browser")
    ui.add_argument("--port", type=int, default=7870, help="default %(default)s")
    ui.add_argument("--no-browser", action="store_true", help="only start the server")
    ui.set_defaults(run=_ui)


def _ui(options: argparse.Namespace) -> int:
    from lora_train.ui.standalone import serve

    serve(options.port, open_browser=not options.no_browser)
    return 0

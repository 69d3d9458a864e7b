"""`lora-train ui`: the page."""

from __future__ import annotations

import argparse
import sys
from typing import Any

PORT, TRIED = 7870, 20


def add_ui(commands: Any) -> None:
    """The command "ui"."""
    ui = commands.add_parser("ui", help="open the page in a browser")
    ui.add_argument("--port", type=int, help=f"default: {PORT}, or the next free one")
    ui.add_argument("--no-browser", action="store_true", help="only start the server")
    ui.set_defaults(run=_ui)


def _ui(options: argparse.Namespace) -> int:
    from lora_train.ui.standalone import in_use, serve

    port = options.port
    if port is None:
        port = next((one for one in range(PORT, PORT + TRIED) if not in_use(one)), PORT)
        if port != PORT:
            print(f"Port {PORT} is in use; using {port}.", file=sys.stderr)
    serve(port, open_browser=not options.no_browser)
    return 0

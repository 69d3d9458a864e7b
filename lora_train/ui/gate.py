"""Access to the page of the standalone server: only with the address that it printed.

Every account on this machine can reach a server on 127.0.0.1, and whoever uses the page can run programs with the
rights of the person who started it (`captioner: command`). So each start makes a token, and the page and everything
it loads are below it: `http://127.0.0.1:7870/TOKEN/`. The token is not in a cookie, which a browser would send to every
other server on 127.0.0.1, and not on a command line, which every account can read.
"""

from __future__ import annotations

import contextlib
import html
import os
import secrets
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from pathlib import Path
from typing import Any

from starlette.requests import HTTPConnection
from starlette.responses import HTMLResponse, JSONResponse, Response

from lora_train.hosts.access import PAGE_HEADER

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

REFUSED = "This address does not have the token of this start of LoRA Train."
WHAT_TO_DO = (
    "Open the whole address that was printed where it was started (start.py ui). "
    "Each start has a new one: an address of an earlier start does not work any more."
)
REFUSED_PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>LoRA Train</title>
<meta name="viewport" content="width=device-width"><meta name="color-scheme" content="light dark">
<body style="font-family: system-ui, sans-serif; max-width: 40em; margin: 3em auto; padding: 0 1em">
<h1>LoRA Train</h1><p>{what}</p><p>{fix}</p></body></html>"""


def new_token() -> str:
    """A token that cannot be guessed, of characters that are allowed in an address."""
    return secrets.token_urlsafe(24)


class Gate:
    """ASGI middleware: answers 401 to requests without the token in the path or in the page's header."""

    def __init__(self, app: Any, token: str) -> None:
        self._app, self._token = app, token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the request pass, or refuse it."""
        if scope["type"] == "lifespan" or self._has_token(scope):
            return await self._app(scope, receive, send)  # type: ignore[no-any-return]
        if scope["type"] == "websocket":
            await receive()
            return await send({"type": "websocket.close", "code": 1008})
        await self._refusal(scope)(scope, receive, send)  # type: ignore[arg-type]

    def _has_token(self, scope: Scope) -> bool:
        given = [str(scope["path"]).lstrip("/").partition("/")[0], HTTPConnection(scope).headers.get(PAGE_HEADER, "")]
        return any(secrets.compare_digest(one.encode("utf-8", "replace"), self._token) for one in given)

    @staticmethod
    def _refusal(scope: Scope) -> Response:
        if "html" in HTTPConnection(scope).headers.get("accept", ""):
            return HTMLResponse(REFUSED_PAGE.format(what=REFUSED, fix=WHAT_TO_DO), 401)
        return JSONResponse({"problems": [{"what": REFUSED, "where": "", "fix": WHAT_TO_DO}]}, 401)


@contextlib.contextmanager
def only_for_me(folder: Path, address: str) -> Iterator[Path]:
    """Within the block there is a page in `folder` that leads to `address` and that only this account can read.

    The browser is opened with this page, since every account can see the arguments of a started program.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"open-page-{os.getpid()}.html"
    shown = html.escape(address)
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
    try:
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            file.write(
                f'<!doctype html><meta charset="utf-8"><title>LoRA Train</title>'
                f'<meta http-equiv="refresh" content="0;url={shown}"><a href="{shown}">LoRA Train</a>'
            )
        yield path
    finally:
        with contextlib.suppress(OSError):
            path.unlink()

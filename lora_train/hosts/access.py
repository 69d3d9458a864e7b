"""Who may use the routes: people who passed the WebUI's own login, which does not cover an extension's routes."""

from __future__ import annotations

import base64
import binascii
import secrets
from collections.abc import Callable
from typing import Any

PAGE_HEADER = "x-lora-train-page"
"""The page's own requests carry the page's token here (or, for pictures, as `?page=`)."""


class Login:
    """Checks requests to a WebUI's app.

    Without any login configured, everybody who reaches the server may pass. Otherwise one of these is needed: the
    page's token (only people who may load the page have it), gradio's login cookie, or the API's user and password.
    """

    def __init__(self, app: Any, api_auth: str = "", api_open: Callable[[], bool] = lambda: True) -> None:
        self._app = app
        self._api_users = dict(pair.split(":", 1) for pair in api_auth.split(",") if ":" in pair)
        self._api_open = api_open
        self.page_token = secrets.token_urlsafe(24)

    def serve(self, app: Any) -> None:
        """Check logins of `app` from now on ("Reload UI" creates a new one)."""
        self._app = app

    def allows(self, headers: Any, cookies: Any, query: Any) -> bool:
        """Whether a request with these headers, cookies and query parameters may pass."""
        token = headers.get(PAGE_HEADER) or query.get("page") or ""
        if token and secrets.compare_digest(token.encode(), self.page_token.encode()):
            return True
        if not self._api_open():
            return False
        needs_login = bool(getattr(self._app, "auth", None)) or bool(self._api_users)
        return not needs_login or self._has_cookie(cookies) or self._has_api_login(headers.get("authorization") or "")

    def _has_cookie(self, cookies: Any) -> bool:
        tokens = getattr(self._app, "tokens", None) or {}
        return any(name.startswith("access-token") and tokens.get(value) for name, value in cookies.items())

    def _has_api_login(self, authorization: str) -> bool:
        kind, _, given = authorization.partition(" ")
        if kind.lower() != "basic":
            return False
        try:
            user, _, password = base64.b64decode(given, validate=True).decode("utf-8").partition(":")
        except (binascii.Error, UnicodeDecodeError):
            return False
        expected = self._api_users.get(user)
        return expected is not None and secrets.compare_digest(expected.encode(), password.encode())

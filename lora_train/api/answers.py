"""What requests and responses of all routes have in common: JSON in, JSON out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from fastapi import HTTPException, Request
from fastapi.responses import Response
from fastapi.routing import APIRoute

from lora_train.errors import LoraTrainError, Problem, Unknown
from lora_train.jsons import read_json, to_json

NO_STORE = {"Cache-Control": "no-store"}


def answer(content: Any, status: int = 200) -> Response:
    """A JSON response, which no browser caches; numbers are finite or null."""
    return Response(to_json(content).encode("utf-8"), status, NO_STORE, "application/json")


def refusal(error: LoraTrainError, status: int = 422) -> Response:
    """All problems of an error."""
    return answer({"problems": [problem.to_dict() for problem in error.problems]}, status)


class Route(APIRoute):
    """A route whose LoraTrainError becomes 422 with all problems, or 404 where there is no such thing."""

    def get_route_handler(self) -> Callable[[Request], Any]:
        """APIRoute's handler, with our errors as responses."""
        handle = super().get_route_handler()

        async def answered(request: Request) -> Response:
            try:
                given: Response = await handle(request)
                return given
            except LoraTrainError as error:
                return refusal(error, 404 if isinstance(error, Unknown) else 422)

        return answered


def only(content: dict[str, Any], known: Sequence[str] = (), needed: Sequence[str] = ()) -> None:
    """Raises LoraTrainError with every field of a request that is missing or unknown.

    A misspelled field would otherwise count as left out, which has a meaning of its own: an empty caption, all
    defaults.
    """
    fields = (*needed, *known)
    fix = f"Remove it or check its spelling; known: {', '.join(fields)}." if fields else "Send {}."
    found = [Problem("there is no such field.", name, fix) for name in content if name not in fields]
    found += [Problem("is not given.", name, "Send it.") for name in needed if name not in content]
    if found:
        raise LoraTrainError.of(found)


async def json_body(request: Request) -> dict[str, Any]:
    """The request's JSON object. A page of another site cannot send this content type without asking first (CORS)."""
    if request.headers.get("content-type", "").split(";")[0].strip() != "application/json":
        raise HTTPException(415, "send JSON")
    try:
        content = read_json(await request.body() or b"{}")
    except ValueError as error:
        raise HTTPException(400, f"the request is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise HTTPException(400, "the request is not a JSON object")
    return content

"""A router whose routes take the query parameters that they declare, and no others.

A misspelt filter that is ignored answers with everything, so an unknown parameter, or one that is given twice, is
Problem bad-request. What a route declares with `takes` is also what /openapi.json says. Used by all routes.
"""

from collections.abc import Awaitable, Callable
from functools import wraps
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from .query import bad_parameter

_MEANINGS = {
    "status": "queued, running, completed, failed or cancelled",
    "reason": "why it died, such as failed, timeout or invalid",
    "name": "the task kind",
    "directory": "the results directory",
    "node": "the worker node",
    "since": "at this time or later (RFC 3339)",
    "until": "before this time (RFC 3339)",
    "limit": "the most items of a page",
    "cursor": "the `next` of the page before",
    "bucket": "minute, hour, day, week or month",
    "by": "name or node: a row for each",
    "format": "json or csv",
}


def takes(*names: str) -> dict[str, Any]:
    """For a route's `openapi_extra`: its query parameters. All are optional."""
    return {
        "parameters": [
            {"name": n, "in": "query", "required": False, "description": _MEANINGS[n], "schema": {"type": "string"}}
            for n in names
        ]
    }


class Router(APIRouter):
    """Every handler must have a parameter `request`."""

    def add_api_route(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        declared = (options.get("openapi_extra") or {}).get("parameters", ())
        names = tuple(p["name"] for p in declared if p["in"] == "query")
        super().add_api_route(path, _checked(endpoint, names), **options)


def _checked(
    endpoint: Callable[..., Awaitable[Response]], names: tuple[str, ...]
) -> Callable[..., Awaitable[Response]]:
    @wraps(endpoint)
    async def check_and_call(*, request: Request, **others: Any) -> Response:
        if request.scope["query_string"]:
            _check(request, names)
        return await endpoint(request=request, **others)

    return check_and_call


def _check(request: Request, names: tuple[str, ...]) -> None:
    seen: set[str] = set()
    for name, _ in request.query_params.multi_items():
        if name not in names:
            taken = f"takes {', '.join(names)}" if names else "takes none"
            raise bad_parameter(name[:100], f"unknown query parameter {name[:100]!r}: {request.url.path[:200]} {taken}")
        if name in seen:
            raise bad_parameter(name, f"the query parameter {name!r} is given twice: give it once")
        seen.add(name)

"""The hot routes as plain ASGI: they are called before the framework's layers, routing and dependency injection, which
cost more than all that a submission needs.

They are routes of the application as all others, so /openapi.json has them, and their endpoints are the same functions.
`gateway.app` calls `answer` first for each request; what it does not take (another path or method, HEAD) goes on to the
framework. Endpoints get the request and the path's parameters, and return a Response; what they raise is answered by
`on_error`.
"""

import re
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import compile_path
from starlette.types import Receive, Scope, Send

from .guard import SECURITY_HEADERS, Access

Endpoint = Callable[..., Awaitable[Response]]
OnError = Callable[[Request, Exception], Awaitable[Response]]


class DirectRoutes:
    """Some of the application's routes, and who may call them."""

    def __init__(self, routes: Iterable[APIRoute], access: Access, on_error: OnError) -> None:
        self._access, self._on_error = access, on_error
        self._fixed: dict[tuple[str, str], Endpoint] = {}  # by method and path
        self._patterns: dict[str, list[tuple[re.Pattern[str], Endpoint]]] = {}  # by method
        for route in routes:
            for method in route.methods or ():
                if "{" in route.path:
                    self._patterns.setdefault(method, []).append((compile_path(route.path)[0], route.endpoint))
                else:
                    self._fixed[method, route.path] = route.endpoint

    async def answer(self, scope: Scope, receive: Receive, send: Send) -> bool:
        """Answers the request and returns True, or leaves it alone: False."""
        method, path = scope["method"], scope["path"]
        parameters: dict[str, Any] = {}
        endpoint = self._fixed.get((method, path))
        if endpoint is None:
            endpoint, parameters = self._find(method, path)
            if endpoint is None:
                return False
        if (problem := self._access.problem(scope["headers"])) is not None:
            await problem.response()(scope, receive, send)
            return True
        request = Request(scope, receive, send)
        try:
            response = await endpoint(request=request, **parameters)
        except Exception as e:  # noqa: BLE001 - whatever it is, the client gets an answer, and the log the traceback
            response = await self._on_error(request, e)
        present = {name for name, _ in response.raw_headers}
        response.raw_headers.extend(h for h in SECURITY_HEADERS if h[0] not in present)
        await response(scope, receive, send)
        return True

    def _find(self, method: str, path: str) -> tuple[Endpoint | None, dict[str, str]]:
        for pattern, endpoint in self._patterns.get(method, ()):
            if found := pattern.match(path):
                return endpoint, found.groupdict()
        return None, {}

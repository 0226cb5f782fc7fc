"""The application: all routers in one list, and the one place where errors become problems.

`make_app` is called by `main` and by tests, with the dependencies of the handlers.
"""

import asyncio
import logging
import sqlite3

from fastapi import APIRouter, FastAPI
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from headrace import __version__
from headrace.process.throttled_log import log_throttled
from headrace.storage.sqlite import is_damage, trouble

from .http.direct import DirectRoutes
from .http.guard import Access, Guard
from .http.head_requests import HeadRequests
from .http.problems import Problem
from .page import routes as page
from .routes import attempt_logs, cluster, dead_letters, events, health, results, statistics, submit, tasks
from .routes.dependencies import Dependencies

log = logging.getLogger(__name__)

# First match wins: /tasks/batch before /tasks/{task_id}, /events beside /tasks/{task_id}/events.
ROUTERS: tuple[APIRouter, ...] = (
    submit.router,
    events.router,
    results.router,
    attempt_logs.router,
    tasks.router,
    cluster.router,
    dead_letters.router,
    statistics.router,
    health.router,
    page.router,
)


# Called for every task, or by every listener: without the framework (docs/design/0041-a-gateways-hot-routes.md).
_DIRECT = (
    ("POST", "/tasks"),
    ("POST", "/tasks/batch"),
    ("GET", "/tasks/{task_id}"),
    ("GET", "/tasks/{task_id}/events"),
    ("GET", "/events"),
)


class Application(FastAPI):
    """FastAPI, with the hot routes in front of it."""

    direct: DirectRoutes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["app"] = self
        if scope["type"] != "http" or not await self.direct.answer(scope, receive, send):
            await super().__call__(scope, receive, send)


def make_app(dependencies: Dependencies, any_host: bool = False) -> FastAPI:
    """The gateway's ASGI application. `any_host`: accept every Host header, not only loopback names."""
    app = Application(
        title="Headrace",
        version=__version__,
        description="Serverless-style compute on Apache Kafka",
        docs_url=None,
        redoc_url=None,
    )
    app.state.dependencies = dependencies
    for router in ROUTERS:
        app.include_router(router)
    app.add_exception_handler(Problem, _answer_problem)
    app.add_exception_handler(HTTPException, _answer_http_error)
    app.add_exception_handler(sqlite3.Error, _answer_unreadable_view)
    app.add_exception_handler(Exception, _answer_failure)
    access = Access(any_host)
    app.add_middleware(HeadRequests)
    app.add_middleware(Guard, access=access)
    app.direct = DirectRoutes(_direct_routes(), access, _answer_error)
    return app


def _direct_routes() -> list[APIRoute]:
    """The routes of _DIRECT, which must be there."""
    routes = [r for router in ROUTERS for r in router.routes if isinstance(r, APIRoute)]
    return [next(r for r in routes if r.path == path and method in (r.methods or ())) for method, path in _DIRECT]


async def _answer_error(request: Request, error: Exception) -> Response:
    """What the framework does by the handlers' types, for the routes that it does not call."""
    if isinstance(error, Problem):
        return error.response()
    if isinstance(error, sqlite3.Error):
        return await _answer_unreadable_view(request, error)
    return await _answer_failure(request, error)


async def _answer_problem(_request: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)
    return error.response()


async def _answer_http_error(request: Request, error: Exception) -> Response:
    """The framework's own errors: a path or method that no router has."""
    assert isinstance(error, HTTPException)
    path = request.url.path[:200]
    if error.status_code == 404:
        return Problem("not-found", f"there is no {path!r}; /openapi.json lists all paths").response()
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "")
        allowed = f"{allowed}, HEAD" if "GET" in allowed and "HEAD" not in allowed else allowed
        detail = f"{path!r} does not support {request.method[:20]}" + (f": use {allowed}" if allowed else "")
        return Problem("method-not-allowed", detail, headers={"Allow": allowed} if allowed else None).response()
    return Problem("bad-request", str(error.detail), headers=error.headers).response()


async def _answer_unreadable_view(request: Request, error: Exception) -> Response:
    """The status view's file is damaged, and its thread makes it anew; or the disk is in trouble."""
    assert isinstance(error, sqlite3.Error)
    log_throttled("status view", "%s %s: the status view cannot be read: %s", request.method, request.url.path, error)
    why = "its file is damaged, and is made anew from Kafka's log" if is_damage(error) else trouble(error)
    return Problem("catching-up", f"the status view cannot be read now: {why}; try again later").response()


async def _answer_failure(request: Request, error: Exception) -> Response:
    if not isinstance(error, asyncio.CancelledError):
        log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return Problem("internal-error", "an unexpected error occurred: the gateway's log has the traceback").response()

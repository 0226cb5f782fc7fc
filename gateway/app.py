"""The application: every router in one list, and one place where errors become problems.

`make_app` is called by `main` and by tests, with the parts that handlers use. Further routers (statistics, keys) join
the list; nothing is discovered.
"""

import asyncio
import logging

from fastapi import APIRouter, FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from gateway.http.guard import Guard
from gateway.http.problems import Problem
from gateway.page import routes as page
from gateway.routes import attempt_logs, cluster, dead_letters, events, health, results, statistics, submit, tasks
from gateway.routes.dependencies import Dependencies
from headrace import __version__

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

_BY_STATUS = {404: "not-found", 405: "method-not-allowed"}


def make_app(parts: Dependencies, any_host: bool = False) -> FastAPI:
    """The gateway over its parts. `any_host`: serve whatever Host a request names."""
    app = FastAPI(
        title="Headrace",
        version=__version__,
        description="Serverless-style compute on Apache Kafka",
        docs_url=None,
        redoc_url=None,
    )
    app.state.parts = parts
    for router in ROUTERS:
        app.include_router(router)
    app.add_exception_handler(Problem, _problem)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(Exception, _failure)
    app.add_middleware(Guard, any_host=any_host)
    return app


async def _problem(_request: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)
    return error.response()


async def _http_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    problem = Problem(_BY_STATUS.get(error.status_code, "bad-request"), str(error.detail), headers=error.headers)
    return problem.response()


async def _failure(request: Request, error: Exception) -> Response:
    if not isinstance(error, asyncio.CancelledError):
        log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return Problem("internal-error", "the gateway has failed; its log says why").response()

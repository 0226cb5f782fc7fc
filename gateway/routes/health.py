"""GET /healthz, /readyz and /metrics: is the process alive, can the gateway do its work, and its metrics."""

import orjson
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.requests import Request
from starlette.responses import Response

from ..http.router import Router
from .dependencies import dependencies_of

router = Router()


@router.get("/healthz")
async def healthz(request: Request) -> Response:
    """200 as long as the process answers."""
    return Response(b'{"status":"alive"}', media_type="application/json")


@router.get("/readyz")
async def readyz(request: Request) -> Response:
    """200 when the gateway can do its work, else 503 with the reasons; both with notes for people."""
    status, body = dependencies_of(request).health.report()
    return Response(orjson.dumps(body), status, media_type="application/json")


@router.get("/metrics")
async def metrics(request: Request) -> Response:
    """Prometheus's text format."""
    deps = dependencies_of(request)
    deps.metrics.ready.set(0 if deps.health.reasons() else 1)
    return Response(deps.metrics.text(), headers={"Content-Type": CONTENT_TYPE_LATEST})

"""GET /healthz, /readyz and /metrics: alive; able to do its work; counted."""

import orjson
from fastapi import APIRouter
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.requests import Request
from starlette.responses import Response

from gateway.routes.dependencies import parts_of

router = APIRouter()


@router.get("/healthz")
async def healthz() -> Response:
    """200 as long as the process can answer."""
    return Response(b'{"status":"alive"}', media_type="application/json")


@router.get("/readyz")
async def readyz(request: Request) -> Response:
    """200, or 503 with the reasons in words."""
    reasons = parts_of(request).health.reasons()
    body = orjson.dumps({"status": "not ready" if reasons else "ready", "reasons": reasons})
    return Response(body, 503 if reasons else 200, media_type="application/json")


@router.get("/metrics")
async def metrics(request: Request) -> Response:
    """Prometheus's text format."""
    parts = parts_of(request)
    parts.metrics.ready.set(0 if parts.health.reasons() else 1)
    return Response(parts.metrics.text(), headers={"Content-Type": CONTENT_TYPE_LATEST})

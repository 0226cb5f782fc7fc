"""`/healthz`, `/readyz` and `/metrics` on a Faust app's own port, as every role has them.

Used by the worker node and the storekeeper. The answers come from memory, so they also come while Kafka is away.
"""

from collections.abc import Callable
from typing import Any

import faust
from prometheus_client import CollectorRegistry, generate_latest

from headrace.process.health import Health


def add_health_routes(
    app: faust.App, health: Health, registry: CollectorRegistry, refresh: Callable[[], None] = lambda: None
) -> None:
    """Must be called before the app starts. `refresh` sets the gauges just before `/metrics` is answered."""

    @app.page("/healthz")
    async def healthz(web: Any, _request: Any) -> Any:
        """200 as long as the event loop can answer."""
        return web.json({"status": "alive"})

    @app.page("/readyz")
    async def readyz(web: Any, _request: Any) -> Any:
        """200, or 503 with the reasons in words; both with notes for people."""
        status, body = health.report()
        return web.json(body, status=status, headers={"Cache-Control": "no-store"})

    @app.page("/metrics")
    async def metrics(web: Any, _request: Any) -> Any:
        """Prometheus's text format."""
        refresh()
        return web.bytes(
            generate_latest(registry), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"}
        )

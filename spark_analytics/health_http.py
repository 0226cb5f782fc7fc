"""`/healthz`, `/readyz` and `/metrics` of the statistics, served by a thread from memory. `main` starts it."""

import json
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from headrace.errors import UsageError
from headrace.process.health import Health
from headrace.process.host_check import is_loopback, without_port
from headrace.settings import Settings, parse_address

from .metrics import Metrics


class HealthServer:
    """Listens from its construction on. UsageError when it cannot, or for an open address without HEADRACE_INSECURE."""

    def __init__(self, settings: Settings, health: Health, metrics: Metrics) -> None:
        host, port = parse_address(settings.analytics_http, "HEADRACE_ANALYTICS_HTTP")
        if not settings.insecure and not is_loopback(host):
            raise UsageError(
                f"HEADRACE_ANALYTICS_HTTP is {settings.analytics_http}: it listens on loopback only, such as "
                f"127.0.0.1:{port}; HEADRACE_INSECURE=1 opens it to everyone who can reach that address"
            )
        handler = type("Handler", (_Handler,), {"health": health, "metrics": metrics, "any_host": settings.insecure})
        try:
            self._server = (_ServerV6 if ":" in host else ThreadingHTTPServer)((host, port), handler)
        except OSError as e:
            raise UsageError(
                f"HEADRACE_ANALYTICS_HTTP is {settings.analytics_http}, where the statistics cannot listen: "
                f"{e.strerror}; give another host:port"
            ) from None
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, name="health", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)


class _ServerV6(ThreadingHTTPServer):
    address_family = socket.AF_INET6


class _Handler(BaseHTTPRequestHandler):
    health: Health
    metrics: Metrics
    any_host: bool
    timeout = 10  # seconds for a silent client

    def do_GET(self) -> None:
        if not self.any_host and not is_loopback(without_port(self.headers.get("Host", ""))):
            self._answer(403, b'{"detail":"only loopback names are served"}')
        elif self.path == "/healthz":
            self._answer(200, b'{"status":"alive"}')
        elif self.path == "/readyz":
            status, body = self.health.report()
            self._answer(status, json.dumps(body).encode())
        elif self.path == "/metrics":
            self.metrics.ready.set(0 if self.health.reasons() else 1)
            self._answer(200, self.metrics.text(), "text/plain; version=0.0.4; charset=utf-8")
        else:
            self._answer(404, b'{"detail":"there are /healthz, /readyz and /metrics"}')

    do_HEAD = do_GET  # `_answer` leaves out the body

    def _answer(self, status: int, body: bytes, content_type: str = "application/json") -> None:
        self.send_response(status)
        for name, value in (
            ("Content-Type", content_type),
            ("Content-Length", str(len(body))),
            ("Cache-Control", "no-store"),
            ("X-Content-Type-Options", "nosniff"),
        ):
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass

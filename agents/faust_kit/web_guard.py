"""Limits a role's own web port to this machine, unless its owner allows the network.

Used by the Faust apps' pages (statistics, health, metrics). UsageError at start when a port would be open to the
network without consent. 403 for a request whose Host is not this machine's, so that no web page can reach the port
through DNS rebinding.
"""

from collections.abc import Awaitable, Callable

from aiohttp import web

from headrace.errors import UsageError
from headrace.process.host_check import is_loopback, without_port
from headrace.settings import Settings, parse_address

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
}


def guard(app: web.Application, settings: Settings, http: str) -> None:
    """Applies the rule to every page of `app`, which will listen at `http` (host:port)."""
    host, _ = parse_address(http)
    if not settings.insecure and not is_loopback(host):
        raise UsageError(
            f"{http} is reachable from the network: listen on 127.0.0.1, or set HEADRACE_INSECURE=1 if everyone there "
            "may use it"
        )

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        if not settings.insecure and not is_loopback(without_port(request.headers.get("Host", ""))):
            return web.Response(
                status=403, text="this port answers to the names of its own machine only\n", headers=_HEADERS
            )
        response = await handler(request)
        for name, value in _HEADERS.items():
            response.headers.setdefault(name, value)
        return response

    app.middlewares.append(check)

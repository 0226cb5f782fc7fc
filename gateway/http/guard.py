"""Who may speak to a gateway that has no keys: people on this machine, and no web page behind their back.

An ASGI layer around everything. `Host` must name loopback (so that no foreign name that resolves here is served) and
`Origin`, where a browser sends one, must be this site's own. `check_address` refuses at start to listen beyond loopback
unless HEADRACE_INSECURE=1 says so; with it any Host is served, and Origin is still checked.
"""

from urllib.parse import urlsplit

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.http.problems import Problem
from headrace.errors import UsageError
from headrace.process.host_check import is_loopback, without_port
from headrace.settings import Settings, address

_SECURITY_HEADERS = [(b"x-content-type-options", b"nosniff"), (b"referrer-policy", b"no-referrer")]


def check_address(settings: Settings) -> tuple[str, int]:
    """Where to listen; UsageError when that would open the gateway to others without keys."""
    if settings.api_keys:
        raise UsageError(
            "HEADRACE_API_KEYS: this release checks no keys yet: unset it, and keep the gateway on loopback"
        )
    host, port = address(settings.http, "HEADRACE_HTTP")
    if not settings.insecure and not is_loopback(host):
        raise UsageError(
            f"HEADRACE_HTTP is {settings.http}: without API keys the gateway listens on loopback only, such as "
            f"127.0.0.1:{port}; HEADRACE_INSECURE=1 opens it to everyone who can reach that address"
        )
    return host, port


class Guard:
    """Wraps the application; answers 403 itself."""

    def __init__(self, app: ASGIApp, any_host: bool) -> None:
        self._app, self._any_host = app, any_host

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        host = origin = ""
        for name, value in scope["headers"]:
            if name == b"host":
                host = value.decode("latin-1")
            elif name == b"origin":
                origin = value.decode("latin-1")
        problem = self._problem(host, origin)
        if problem is not None:
            await problem.response()(scope, receive, send)
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                present = {name for name, _ in message["headers"]}
                message["headers"] = [*message["headers"], *(h for h in _SECURITY_HEADERS if h[0] not in present)]
            await send(message)

        await self._app(scope, receive, send_guarded)

    def _problem(self, host: str, origin: str) -> Problem | None:
        if not self._any_host and not is_loopback(without_port(host)):
            return Problem(
                "forbidden-host",
                f"without keys only loopback names are served, not {host[:100]!r}: use 127.0.0.1 or localhost",
            )
        if origin and urlsplit(origin).netloc.lower() != host.lower():
            return Problem("forbidden-origin", f"a page of {origin[:100]!r} may not use this gateway")
        return None

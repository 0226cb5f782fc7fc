"""Access control without API keys: only clients on this machine, and no requests by web pages of other sites.

`Access` decides by a request's headers, for the hot routes (`direct`) and for the ASGI layer around all others. The
Host header must be a loopback name, which defeats DNS rebinding. An Origin header, which browsers send, must be this
site's own. At start `check_address` refuses to listen beyond loopback unless HEADRACE_INSECURE=1 is set; then any Host
is accepted, and Origin is still checked.
"""

from collections.abc import Iterable
from functools import lru_cache
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from headrace.errors import UsageError
from headrace.process.host_check import is_loopback, without_port
from headrace.settings import Settings, parse_address

from .problems import Problem

SECURITY_HEADERS = [(b"x-content-type-options", b"nosniff"), (b"referrer-policy", b"no-referrer")]
_KEPT_HOSTS = 256  # values of Host whose answer is remembered


def check_address(settings: Settings) -> tuple[str, int]:
    """The (host, port) to listen on; UsageError when other machines could reach it, and for API keys."""
    if settings.api_keys:
        raise UsageError(
            "HEADRACE_API_KEYS is set, but this release does not support API keys: unset it, and keep HEADRACE_HTTP on "
            "a loopback address"
        )
    host, port = parse_address(settings.http, "HEADRACE_HTTP")
    if not settings.insecure and not is_loopback(host):
        raise UsageError(
            f"HEADRACE_HTTP is {settings.http}, which other machines can reach: set it to a loopback address such as "
            f"127.0.0.1:{port}, or set HEADRACE_INSECURE=1 to let anyone who can reach it use the gateway"
        )
    return host, port


class Access:
    """Who may use the gateway. `any_host`: every Host header is accepted, not only loopback names."""

    def __init__(self, any_host: bool) -> None:
        self._any_host = any_host

    def problem(self, headers: Iterable[tuple[bytes, bytes]]) -> Problem | None:
        """None, or why a request with these headers (ASGI's) is refused."""
        host = origin = b""
        for name, value in headers:
            if name == b"host":
                host = value
            elif name == b"origin":
                origin = value
        if not self._any_host and not _is_loopback(host):
            return Problem(
                "forbidden-host",
                f"the Host header is {host.decode('latin-1')[:100]!r}: use a loopback name, such as localhost or "
                "127.0.0.1",
            )
        if origin and urlsplit(origin.decode("latin-1")).netloc.lower() != host.decode("latin-1").lower():
            return Problem(
                "forbidden-origin",
                f"the request comes from a page of {origin.decode('latin-1')[:100]!r}: use the gateway's own page "
                "instead",
            )
        return None


@lru_cache(_KEPT_HOSTS)
def _is_loopback(host: bytes) -> bool:
    return is_loopback(without_port(host.decode("latin-1")))


class Guard:
    """Wraps the application: answers 403 to other hosts and sites, and adds security headers to all other answers."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app, self._access = app, access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if (problem := self._access.problem(scope["headers"])) is not None:
            await problem.response()(scope, receive, send)
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                present = {name for name, _ in message["headers"]}
                message["headers"] = [*message["headers"], *(h for h in SECURITY_HEADERS if h[0] not in present)]
            await send(message)

        await self._app(scope, receive, send_guarded)

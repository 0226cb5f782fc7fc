"""HEAD wherever GET is: an ASGI layer that answers HEAD with the status and headers of GET, and no body.

The handler runs as for a GET until its headers are out; then it is told that the client has gone, so that neither a
stored result is read to its end nor a stream of events kept open.
"""

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send


class HeadRequests:
    """Wraps the application."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return
        has_headers = asyncio.Event()

        async def receive_until_headers() -> Message:
            """The client of a HEAD has nothing more to send: the next message says that it is gone."""
            await has_headers.wait()
            return {"type": "http.disconnect"}

        async def send_headers(message: Message) -> None:
            if message["type"] != "http.response.start":
                return
            await send(message)
            await send({"type": "http.response.body", "body": b"", "more_body": False})
            has_headers.set()

        # From 2.4 on, a server's `send` would fail to say the same: here it is `receive` that does.
        as_get = {**scope, "method": "GET", "asgi": {**scope["asgi"], "spec_version": "2.3"}}
        await self._app(as_get, receive_until_headers, send_headers)

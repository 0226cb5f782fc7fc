"""Which hosts may use a Faust app's port."""

from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from agents.faust_kit.web_guard import guard
from headrace.errors import UsageError
from headrace.settings import Settings


def test_a_port_open_to_the_network_needs_consent(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="HEADRACE_INSECURE"):
        guard(web.Application(), Settings(data=tmp_path), "0.0.0.0:6050")
    with pytest.raises(UsageError, match="HEADRACE_INSECURE"):  # a file of keys opens nothing: no port checks keys
        guard(web.Application(), Settings(data=tmp_path, api_keys="keys.yaml"), "0.0.0.0:6050")
    guard(web.Application(), Settings(data=tmp_path, insecure=True), "0.0.0.0:6050")


async def test_another_hosts_name_is_turned_away(tmp_path: Path) -> None:
    app = web.Application()
    guard(app, Settings(data=tmp_path), "127.0.0.1:6050")

    async def hello(_: web.Request) -> web.Response:
        return web.Response(text="hello")

    app.router.add_get("/", hello)
    async with TestClient(TestServer(app)) as client:
        assert (await client.get("/")).status == 200
        for host in ("evil.example", "evil.example:6050", "[2001:db8::1]:6050", ""):
            assert (await client.get("/", headers={"Host": host})).status == 403, host
        answer = await client.get("/", headers={"Host": "[::1]:6050"})
        assert answer.status == 200
        assert answer.headers["X-Content-Type-Options"] == "nosniff"

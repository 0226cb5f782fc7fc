"""Kafka's security options for Faust's client, and which hosts may use its port."""

import ssl
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from faust.auth import GSSAPICredentials, SASLCredentials, SSLCredentials

from agents.faust_kit.app import credentials
from agents.faust_kit.web_guard import guard
from headrace.errors import UsageError
from headrace.settings import Settings


def test_no_security_is_none() -> None:
    assert credentials({}) is None
    assert credentials({"security.protocol": "PLAINTEXT"}) is None


def test_sasl_options_become_credentials() -> None:
    found = credentials(
        {
            "security.protocol": "sasl_ssl",
            "sasl.mechanisms": "SCRAM-SHA-512",
            "sasl.username": "u",
            "sasl.password": "p",
        }
    )
    assert isinstance(found, SASLCredentials)
    assert (found.protocol.value, found.mechanism.value, found.username, found.password) == (
        "SASL_SSL",
        "SCRAM-SHA-512",
        "u",
        "p",
    )
    assert found.ssl_context is not None
    assert found.ssl_context.check_hostname


def test_tls_checks_certificates_unless_told_otherwise() -> None:
    strict = credentials({"security.protocol": "SSL"})
    assert isinstance(strict, SSLCredentials)
    assert strict.context.verify_mode is ssl.CERT_REQUIRED
    loose = credentials({"security.protocol": "SSL", "enable.ssl.certificate.verification": "false"})
    assert isinstance(loose, SSLCredentials)
    assert loose.context.verify_mode is ssl.CERT_NONE


def test_kerberos_is_librdkafkas_default() -> None:
    assert isinstance(credentials({"security.protocol": "SASL_PLAINTEXT"}), GSSAPICredentials)


@pytest.mark.parametrize(
    "options",
    [
        {"security.protocol": "TLS"},
        {"security.protocol": "SASL_SSL", "sasl.mechanism": "OAUTHBEARER"},
        {"security.protocol": "SSL", "ssl.cipher.suites": "NULL"},
        {"security.protocol": "SSL", "ssl.ca.location": "/no/such/file"},
    ],
)
def test_what_aiokafka_cannot_follow_is_refused_in_words(options: dict[str, str]) -> None:
    with pytest.raises(UsageError, match=r"give|lacks|cannot be read"):
        credentials(options)


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

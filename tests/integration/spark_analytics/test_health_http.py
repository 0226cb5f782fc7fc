"""The statistics' health port: whom it answers. No Kafka, no Spark."""

import http.client
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from headrace.errors import UsageError
from headrace.process.health import Health
from headrace.settings import Settings
from infra.local.process import free_port
from spark_analytics.health_http import HealthServer
from spark_analytics.metrics import Metrics


@contextmanager
def served(folder: Path, insecure: bool = False) -> Iterator[int]:
    port = free_port()
    settings = Settings(data=folder, analytics_http=f"127.0.0.1:{port}", insecure=insecure)
    server = HealthServer(settings, Health(), Metrics())
    try:
        yield port
    finally:
        server.close()


def status(port: int, path: str, host: str) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", path, headers={"Host": host})
        return connection.getresponse().status
    finally:
        connection.close()


def test_a_page_of_another_host_is_turned_away_even_when_its_name_begins_like_ours(tmp_path: Path) -> None:
    foreign = [
        "evil.example",
        "localhost.evil.example",
        "127.0.0.1.evil.example:80",
        "127.evil.example",
        "::1.evil",
        "",
    ]
    with served(tmp_path) as port:
        assert {host: status(port, "/metrics", host) for host in foreign} == dict.fromkeys(foreign, 403)


def test_names_of_this_machine_are_answered(tmp_path: Path) -> None:
    with served(tmp_path) as port:
        for host in (f"127.0.0.1:{port}", f"localhost:{port}", "LOCALHOST.", f"[::1]:{port}"):
            assert status(port, "/healthz", host) == 200, host


def test_a_port_that_is_open_on_purpose_answers_to_any_name(tmp_path: Path) -> None:
    with served(tmp_path, insecure=True) as port:
        assert status(port, "/readyz", "statistics.example") == 200


@pytest.mark.parametrize("host", ["0.0.0.0", "localhost.evil.example", "127.evil.example"])
def test_listening_beyond_loopback_needs_consent(host: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="HEADRACE_INSECURE"):
        HealthServer(Settings(data=tmp_path, analytics_http=f"{host}:8000"), Health(), Metrics())


def test_head_answers_as_get_does_without_a_body(tmp_path: Path) -> None:
    with served(tmp_path) as port:
        for path in ("/healthz", "/readyz", "/metrics", "/none"):
            found = []
            for method in ("GET", "HEAD"):
                connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
                connection.request(method, path)
                answer = connection.getresponse()
                found.append((answer.status, answer.getheader("Content-Type"), len(answer.read()) > 0))
                connection.close()
            (status_of_get, kind, has_body), head = found
            assert has_body
            assert head == (status_of_get, kind, False), path


def test_it_listens_on_ipv6_when_it_is_told_to(tmp_path: Path) -> None:
    port = free_port()
    server = HealthServer(Settings(data=tmp_path, analytics_http=f"[::1]:{port}"), Health(), Metrics())
    try:
        connection = http.client.HTTPConnection("::1", port, timeout=10)
        connection.request("GET", "/readyz")
        assert connection.getresponse().status == 200
        connection.close()
    finally:
        server.close()

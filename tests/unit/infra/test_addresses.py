"""The addresses of an `up`: given ones must be free, others move, and what one `up` reserves no other one takes."""

import socket
from collections.abc import Iterator
from dataclasses import replace

import pytest

from headrace.errors import UsageError
from headrace.settings import ADDRESSES, Settings, parse_address
from infra.local import addresses
from infra.local.addresses import Addresses
from infra.local.process import bind_error, free_port


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(addresses, "_PATIENCE_S", 0.0)


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def own(said: list[str]) -> Iterator[Addresses]:
    found = Addresses(said.append)
    yield found
    found.release()


@pytest.fixture
def other() -> Iterator[Addresses]:
    found = Addresses(lambda _: None)
    yield found
    found.release()


@pytest.fixture
def free() -> Settings:
    """Settings whose addresses are all free."""
    ports = set[int]()
    while len(ports) < len(ADDRESSES):  # now and then two calls get the same
        ports.add(free_port())
    return Settings(**{name: f"127.0.0.1:{port}" for name, port in zip(ADDRESSES, ports, strict=True)})  # type: ignore[arg-type]


@pytest.fixture
def in_use() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as s:
        yield f"127.0.0.1:{s.getsockname()[1]}"


def test_free_addresses_stay_as_they_are(own: Addresses, said: list[str], free: Settings) -> None:
    assert own.settle(free, ()) == free
    assert said == []


@pytest.mark.parametrize("name", ADDRESSES)
def test_an_address_that_was_not_given_moves_when_it_is_in_use(
    own: Addresses, said: list[str], free: Settings, in_use: str, name: str
) -> None:
    settled = own.settle(replace(free, **{name: in_use}), set(ADDRESSES) - {name})
    moved = getattr(settled, name)
    assert moved != in_use
    assert bind_error(*parse_address(moved)) == ""
    [line] = said
    assert f"moves to {moved}: {in_use} is in use (HEADRACE_{name.upper()}" in line


@pytest.mark.parametrize("name", ADDRESSES)
def test_an_address_that_was_given_is_named_when_it_is_in_use(
    own: Addresses, free: Settings, in_use: str, name: str
) -> None:
    with pytest.raises(UsageError, match=rf"cannot listen on {in_use} \(address already in use\).*{name.upper()}"):
        own.settle(replace(free, **{name: in_use}), {name})


def test_an_address_that_was_moved_to_earlier_is_taken_again(
    own: Addresses, said: list[str], free: Settings, in_use: str
) -> None:
    earlier = {"http": f"127.0.0.1:{free_port()}", "analytics_http": in_use, "stats_http": f"127.0.0.1:{free_port()}"}
    settled = own.settle(free, {"stats_http"}, earlier)
    assert settled.http == earlier["http"]  # although its own address is free
    assert (settled.analytics_http, settled.stats_http) == (free.analytics_http, free.stats_http)
    [line] = said
    assert line.startswith(f"gateway is at {settled.http}, as before")


def test_two_that_start_at_the_same_moment_do_not_choose_the_same(
    own: Addresses, other: Addresses, free: Settings
) -> None:
    first, second = own.settle(free, ()), other.settle(free, ())  # nothing listens yet on any of these
    assert not {getattr(first, n) for n in ADDRESSES} & {getattr(second, n) for n in ADDRESSES}
    with pytest.raises(UsageError, match="another `headrace up` uses it"):
        other.settle(free, {"http"})
    own.release()
    other.release()
    assert other.settle(free, ()) == free


def test_two_parts_that_were_given_one_address_are_named(own: Addresses, free: Settings) -> None:
    clash = replace(free, workers=2, stats_http=free.http)
    with pytest.raises(UsageError, match=r"workers cannot listen on .*gateway listens there, see HEADRACE_HTTP"):
        own.settle(clash, {"http", "stats_http"})


def test_a_given_address_goes_before_a_default(own: Addresses, free: Settings) -> None:
    settled = own.settle(replace(free, analytics_http=free.http), {"analytics_http"})
    assert settled.analytics_http == free.http
    assert settled.http != free.http


def test_workers_get_ports_in_a_row(own: Addresses, free: Settings) -> None:
    first = parse_address(free.stats_http)[1]
    with socket.create_server(("127.0.0.1", first + 2)):
        settled = own.settle(replace(free, workers=3), ())
    moved = parse_address(settled.stats_http)[1]
    assert not {moved, moved + 1, moved + 2} & {first + 2}


def test_what_is_not_embedded_needs_no_port(own: Addresses, said: list[str], free: Settings, in_use: str) -> None:
    elsewhere = replace(
        free, kafka="kafka:9092", database="mysql://u:p@db/x", embedded_kafka=in_use, embedded_database=in_use
    )
    assert own.settle(elsewhere, ADDRESSES) == elsewhere
    assert said == []


def test_a_last_port_beyond_the_range_is_refused(own: Addresses, free: Settings) -> None:
    with pytest.raises(UsageError, match="HEADRACE_STATS_HTTP"):
        own.settle(replace(free, workers=2, stats_http="127.0.0.1:65535"), ())

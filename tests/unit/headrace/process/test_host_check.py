"""Which names mean this machine itself."""

import pytest

from headrace.process.host_check import is_loopback, without_port

OURS = [
    "127.0.0.1",
    "127.1.2.3",
    "127.8.8.8",
    "localhost",
    "LOCALHOST",
    "LOCALHOST.",
    "a.localhost",
    "::1",
    "[::1]",
    "127.0.0.1.",
]
FOREIGN = [
    "",
    ".",
    "0.0.0.0",
    "10.0.0.1",
    "evil.example",
    "localhost.evil.example",
    "127.0.0.1.evil.example",
    "127.evil.example",
    "evillocalhost",
    "::",
    "::1.evil.example",
    "[::1]evil.example",
    "[2001:db8::1]",
    "0x7f.1",
]


@pytest.mark.parametrize("host", OURS)
def test_loopback_names_and_addresses_mean_this_machine(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", FOREIGN)
def test_any_other_name_is_foreign_also_one_that_begins_like_loopback(host: str) -> None:
    assert not is_loopback(host)


@pytest.mark.parametrize(
    ("header", "host"),
    [
        ("127.0.0.1:8000", "127.0.0.1"),
        ("localhost", "localhost"),
        ("[::1]:8000", "[::1]"),
        ("[::1]", "[::1]"),
        ("[::1]evil.example:8000", "[::1]evil.example:8000"),
        ("[::1", "[::1"),
        ("", ""),
        (":8000", ""),
    ],
)
def test_the_port_of_a_host_header_is_cut_off(header: str, host: str) -> None:
    assert without_port(header) == host


@pytest.mark.parametrize("header", ["[::1]:8000", "localhost:1", "127.0.0.1:80", "LOCALHOST.:8000"])
def test_a_local_host_header_passes(header: str) -> None:
    assert is_loopback(without_port(header))


@pytest.mark.parametrize("header", ["localhost.evil.example:8000", "127.0.0.1.evil.example", "[::1]evil.example:80"])
def test_a_rebound_host_header_does_not(header: str) -> None:
    assert not is_loopback(without_port(header))

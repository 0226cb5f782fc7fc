"""Text from tasks is shown and sent as it is, but for what has no encoding or would control a terminal."""

import os

import pytest

from headrace.contract.printable import printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("two\nlines\twide", "two\nlines\twide"),
        ("é 😀", "é 😀"),
        (os.fsdecode(b"caf\xe9"), "caf\\udce9"),
        ("\x1b[2J\x00\r\x7f\x9b", "\\x1b[2J\\x00\\r\\x7f\\x9b"),
        ("a\u2028b", "a\\u2028b"),
    ],
)
def test_text_is_made_printable(text: str, shown: str) -> None:
    assert printable(text) == shown
    assert printable(text).encode()


@pytest.mark.parametrize("text", ["x" * 101, "\ud800" * 99, "\x00" * 60, "é" * 200_000])
def test_long_text_is_cut_with_an_ellipsis(text: str) -> None:
    shown = printable(text, 100)
    assert len(shown) == 100
    assert shown.endswith("…")


def test_text_of_just_the_limit_is_whole() -> None:
    assert printable("x" * 100, 100) == "x" * 100

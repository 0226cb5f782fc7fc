"""Records: sources and headers are decoded exactly."""

import pytest

from headrace.contract.records import Record, Source
from headrace.errors import Undecodable


def test_a_source_reads_back() -> None:
    assert Source.parse("some.topic/3/17") == Source("some.topic", 3, 17)
    for text in ("", "a", "a/b/c", "a/1"):
        with pytest.raises(Undecodable):
            Source.parse(text)


@pytest.mark.parametrize(
    "text", [b"-1", b"+1", b" 1", b"1_0", b"1.0", b"9223372036854775808", "١".encode(), b"", b"\xff"]
)
def test_a_header_that_is_not_a_whole_number_is_undecodable(text: bytes) -> None:
    with pytest.raises(Undecodable):
        Record("t", 0, 0, timestamp_ms=0, key=None, value=None, headers=(("n", text),)).number("n")


def test_the_last_header_of_a_name_counts() -> None:
    assert (
        Record(
            "t", 0, 0, timestamp_ms=0, key=None, value=None, headers=(("n", b"1"), ("n", b"9223372036854775807"))
        ).number("n")
        == 2**63 - 1
    )

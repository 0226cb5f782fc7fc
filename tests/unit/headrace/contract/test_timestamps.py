"""Times as people write them: RFC 3339 with an offset, and nothing that is no date in UTC."""

from datetime import UTC, datetime

import pytest

from headrace.contract.timestamps import parse_rfc3339


@pytest.mark.parametrize(
    "text",
    [
        "2026-11-23T18:00:00Z",
        "2026-11-23T18:00Z",
        "2026-11-23 18:00:00+00:00",
        "2026-11-23+19:00:00+01:00",  # as the gateway reads a query whose `+` was not escaped
        "2026-11-23T13:00:00.000-05:00",
    ],
)
def test_a_time_with_an_offset_is_given_in_utc(text: str) -> None:
    found = parse_rfc3339(text)
    assert found == datetime(2026, 11, 23, 18, tzinfo=UTC)
    assert found.tzinfo is UTC


@pytest.mark.parametrize(
    "value",
    [
        "",
        "soon",
        "2026-11-23",
        "2026-11-23T18:00:00",
        "2026-13-01T00:00:00Z",
        "0001-01-01T00:00:00+14:00",
        "9999-12-31T23:59:59-10:00",
        5,
        None,
        True,
    ],
)
def test_anything_else_is_refused_in_words(value: object) -> None:
    with pytest.raises(ValueError, match="must be RFC 3339 with an offset"):
        parse_rfc3339(value)

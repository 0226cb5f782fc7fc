"""Submissions: what is accepted, and which field an error names."""

from datetime import UTC, datetime
from typing import Any

import orjson
import pytest

from headrace.contract.submission import MAX_SUBMISSION_BYTES, Submission
from headrace.errors import Invalid, Undecodable
from tests.rigs.messages import RAW


def test_a_submission_has_its_fields_and_the_defaults() -> None:
    full = orjson.loads(RAW) | {
        "timeout_s": 1.5,
        "max_attempts": 2,
        "expires_at": "2026-11-23T18:00:00Z",
        "priority": "high",
    }
    found = Submission.decode(orjson.dumps(full))
    assert found == Submission(
        "prime", {"upper_bound": 10}, "demo", 1.5, 2, datetime(2026, 11, 23, 18, tzinfo=UTC), "high"
    )
    assert Submission.decode(RAW) == Submission("prime", {"upper_bound": 10}, "demo")


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"name": ""}, "/name"),
        ({"name": 5}, "/name"),
        ({"name": "x" * 201}, "/name"),
        ({"payload": []}, "/payload"),
        ({"directory": None}, "/directory"),
        ({"directory": "../x"}, "/directory"),
        ({"timeout_s": 0}, "/timeout_s"),
        ({"timeout_s": True}, "/timeout_s"),
        ({"timeout_s": "5"}, "/timeout_s"),
        ({"max_attempts": 0}, "/max_attempts"),
        ({"max_attempts": 1.0}, "/max_attempts"),
        ({"max_attempts": 101}, "/max_attempts"),
        ({"priority": "urgent"}, "/priority"),
        ({"timeout": 5}, "/timeout"),
        ({"a/b": None}, "/a~1b"),
        ({"": 1}, "/"),
        ({"expires_at": "2026-11-23T18:00:00"}, "/expires_at"),
        ({"expires_at": 5}, "/expires_at"),
        ({"expires_at": "soon"}, "/expires_at"),
    ],
)
def test_the_field_that_breaks_a_rule_is_named(change: dict[str, Any], pointer: str) -> None:
    with pytest.raises(Invalid) as caught:
        Submission.from_json(orjson.loads(RAW) | change)
    assert caught.value.pointer == pointer


@pytest.mark.parametrize("raw", [None, b"", b"{", b"\xff", b'{"a": 1e999}x'])
def test_bytes_that_are_not_json_are_undecodable_and_kept(raw: bytes | None) -> None:
    with pytest.raises(Undecodable) as caught:
        Submission.decode(raw)
    assert caught.value.raw == raw


@pytest.mark.parametrize("raw", [b"[]", b"5", b"null", b'"text"', b" " * (MAX_SUBMISSION_BYTES + 1)])
def test_json_that_is_not_a_submission_is_invalid(raw: bytes) -> None:
    with pytest.raises(Invalid):
        Submission.decode(raw)


@pytest.mark.parametrize("directory", ["a", "team/run-1", "A.b_c-9", "/".join("a" * 8), "x" * 200])
def test_directories_that_follow_the_rule_are_accepted(directory: str) -> None:
    assert Submission.from_json({"name": "k", "directory": directory}).directory == directory

"""Tasks: where id, attempt and headers of an attempt come from, and what the next attempt keeps."""

from dataclasses import replace

import pytest

from headrace.contract.bounds import MAX_FOREIGN_BYTES
from headrace.contract.journal import Claim
from headrace.contract.records import OWN_HEADERS, UNREADABLE_NAME, Record
from headrace.contract.task import Task
from headrace.errors import Invalid, Undecodable
from tests.rigs.messages import ID, LOSS, RAW, TRACE, as_read


def test_the_id_of_a_task_is_its_key_or_else_made_of_its_source() -> None:
    def id_of(key: bytes | None, offset: int = 7) -> str:
        return Task.from_record(Record("tasks.normal", 3, offset, timestamp_ms=5, key=key, value=RAW)).id

    assert id_of(ID.encode()) == id_of(ID.upper().encode()) == id_of(ID.replace("-", "").encode()) == ID
    assert id_of(None) == id_of(b"customer-17") == id_of(b"\xff") != id_of(None, 8)


def test_attempt_and_ledger_headers_count_only_on_the_high_topic() -> None:
    forged = Record(
        "tasks.normal",
        0,
        1,
        timestamp_ms=50,
        key=ID.encode(),
        value=RAW,
        headers=(("attempt", b"9"), ("ledger", b"x"), *TRACE),
    )
    task = Task.from_record(forged)
    assert (task.attempt, task.ledger, task.submitted_ms) == (1, (), 50)
    with pytest.raises(Undecodable):
        Task.from_record(replace(forged, topic="tasks.high"))


@pytest.mark.parametrize(
    "headers", [(("x", b"y" * MAX_FOREIGN_BYTES),), (("h", b""),) * 20_000, ((UNREADABLE_NAME, b""),)]
)
def test_foreign_headers_that_fit_no_claim_make_a_task_undecodable(headers: tuple[tuple[str, bytes], ...]) -> None:
    record = Record("tasks.normal", 0, 1, timestamp_ms=50, key=ID.encode(), value=RAW, headers=headers)
    with pytest.raises(Undecodable, match="headers"):
        Task.from_record(record)
    assert Task.without_headers(record).foreign == ()


@pytest.mark.parametrize("attempt", [b"0", b"10001", b"9223372036854775807"])
def test_an_impossible_attempt_number_is_undecodable(attempt: bytes) -> None:
    with pytest.raises(Undecodable, match="attempt"):
        Task.from_record(
            Record("tasks.high", 0, 1, timestamp_ms=50, key=ID.encode(), value=RAW, headers=(("attempt", attempt),))
        )


def test_the_next_attempt_keeps_ledger_time_and_foreign_headers() -> None:
    first = Task.from_record(Record("tasks.normal", 0, 1, timestamp_ms=50, key=ID.encode(), value=RAW, headers=TRACE))
    second = Task.from_record(as_read(first.next_attempt(LOSS), at_ms=99))
    assert (second.id, second.attempt, second.ledger, second.submitted_ms, second.raw) == (ID, 2, (LOSS,), 50, RAW)
    assert [h for h in second.foreign if h[0] == "traceparent"] == list(TRACE)
    third = Task.from_record(as_read(second.next_attempt(replace(LOSS, attempt=2))))
    assert [f.attempt for f in third.ledger] == [1, 2]


LATER_FIELD = b'{"name": "prime", "payload": {}, "directory": "demo", "later": [1]}'


@pytest.mark.parametrize(
    ("topic", "headers", "is_kept"),
    [
        ("tasks.normal", (), False),
        ("tasks.normal", (("version", b"1"),), False),
        ("tasks.normal", (("version", b"2"),), True),
        ("tasks.normal", (("version", b"v2.1"),), False),  # a producer's own header of that name
        ("tasks.normal", (("version", b"\xff"),), False),
        ("tasks.high", (("attempt", b"1"), ("version", b"1")), False),
        ("tasks.high", (("attempt", b"2"), ("version", b"1")), True),  # an old node's replay of what a new one admitted
    ],
)
def test_fields_of_a_later_version_are_refused_unless_a_later_version_has_accepted_them(
    topic: str, headers: tuple[tuple[str, bytes], ...], is_kept: bool
) -> None:
    record = Record(topic, 0, 1, timestamp_ms=50, key=ID.encode(), value=LATER_FIELD, headers=headers)
    task = Task.from_record(record)
    if is_kept:
        assert task.submission().name == "prime"
    else:
        with pytest.raises(Invalid, match="unknown field 'later'"):
            task.submission()


def test_what_was_claimed_keeps_the_fields_of_a_later_version() -> None:
    headers = (("version", b"2"),)
    record = Record("tasks.normal", 0, 1, timestamp_ms=50, key=ID.encode(), value=LATER_FIELD, headers=headers)
    claim = Claim((Task.from_record(record),), by="a", for_="b", generation=3, node="n")
    [member] = Claim.decode(as_read(claim.encode(), at_ms=60)).tasks
    assert member.submission().name == "prime"


def test_headers_that_only_roles_set_mean_nothing_on_the_topic_that_anybody_writes_to() -> None:
    own = [(name, b"7") for name in sorted(OWN_HEADERS - {"version"})]  # a later version's submission keeps its fields
    plain = Record("tasks.normal", 0, 5, timestamp_ms=9, key=ID.encode(), value=RAW, headers=(("x", b"y"),))
    forged = replace(plain, headers=(*plain.headers, *own))
    assert Task.from_record(forged) == Task.from_record(plain)
    assert Task.from_record(forged).foreign == plain.headers

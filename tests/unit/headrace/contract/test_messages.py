"""Messages encode and decode themselves, say what is wrong with a field, and carry on what they do not know."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import orjson
import pytest

from headrace.contract.bounds import MAX_FOREIGN_BYTES
from headrace.contract.cluster import Cancel, Heartbeat, KindInfo, RunningAttempt
from headrace.contract.journal import Claim, Tombstone, decode_journal, offsets_to_commit
from headrace.contract.ledger import MAX_LEDGER_BYTES, Failure, decode_ledger, encode_ledger
from headrace.contract.lifecycle import Event, received_event, started_event
from headrace.contract.outcome import Outcome
from headrace.contract.progress import Progress
from headrace.contract.records import UNREADABLE_NAME, Outgoing, Record, Source
from headrace.contract.states import Cause, Reason
from headrace.contract.submission import MAX_SUBMISSION_BYTES, Submission
from headrace.contract.task import Task
from headrace.errors import Invalid, Undecodable

ID = "0b1ff0a4-3f0b-4a86-9a3a-5d3c3f7f0a11"
RAW = b'{"name": "prime", "payload": {"upper_bound": 10}, "directory": "demo"}'
TRACE = (("traceparent", b"00-1-2-01"), ("traceparent", b"again"))
LOSS = Failure(1, Cause.NODE_LOSS, node="node-1", started_ms=5, ended_ms=9, detail="silent")


def as_read(out: Outgoing, topic: str = "", partition: int = 0, offset: int = 7, at_ms: int = 1000) -> Record:
    """What the log gives back for what was sent."""
    return Record(
        topic or out.topic, partition, offset, timestamp_ms=at_ms, key=out.key, value=out.value, headers=out.headers
    )


def test_a_submission_has_what_was_said_and_the_defaults() -> None:
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
        ({"expires_at": "2026-11-23T18:00:00"}, "/expires_at"),
        ({"expires_at": 5}, "/expires_at"),
        ({"expires_at": "soon"}, "/expires_at"),
    ],
)
def test_a_field_that_breaks_a_rule_is_named(change: dict[str, Any], pointer: str) -> None:
    with pytest.raises(Invalid) as caught:
        Submission.from_json(orjson.loads(RAW) | change)
    assert caught.value.pointer == pointer


@pytest.mark.parametrize("raw", [None, b"", b"{", b"\xff", b'{"a": 1e999}x'])
def test_what_is_no_json_is_undecodable_and_keeps_its_bytes(raw: bytes | None) -> None:
    with pytest.raises(Undecodable) as caught:
        Submission.decode(raw)
    assert caught.value.raw == raw


@pytest.mark.parametrize("raw", [b"[]", b"5", b"null", b'"text"', b" " * (MAX_SUBMISSION_BYTES + 1)])
def test_what_is_json_but_no_submission_is_invalid(raw: bytes) -> None:
    with pytest.raises(Invalid):
        Submission.decode(raw)


@pytest.mark.parametrize("directory", ["a", "team/run-1", "A.b_c-9", "/".join("a" * 8), "x" * 200])
def test_directories_within_the_rule_are_taken(directory: str) -> None:
    assert Submission.from_json({"name": "k", "directory": directory}).directory == directory


def test_a_task_takes_its_id_from_its_key_or_else_from_its_place() -> None:
    def id_of(key: bytes | None, offset: int = 7) -> str:
        return Task.from_record(Record("tasks.normal", 3, offset, timestamp_ms=5, key=key, value=RAW)).id

    assert id_of(ID.encode()) == id_of(ID.upper().encode()) == id_of(ID.replace("-", "").encode()) == ID
    assert id_of(None) == id_of(b"customer-17") == id_of(b"\xff") != id_of(None, 8)


def test_attempts_are_believed_on_the_high_topic_alone() -> None:
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
def test_headers_that_cannot_travel_along_make_a_task_undecodable(headers: tuple[tuple[str, bytes], ...]) -> None:
    record = Record("tasks.normal", 0, 1, timestamp_ms=50, key=ID.encode(), value=RAW, headers=headers)
    with pytest.raises(Undecodable, match="headers"):
        Task.from_record(record)
    assert Task.without_headers(record).foreign == ()


@pytest.mark.parametrize("attempt", [b"0", b"10001", b"9223372036854775807"])
def test_an_attempt_that_nobody_can_have_reached_is_forged(attempt: bytes) -> None:
    with pytest.raises(Undecodable, match="attempt"):
        Task.from_record(
            Record("tasks.high", 0, 1, timestamp_ms=50, key=ID.encode(), value=RAW, headers=(("attempt", attempt),))
        )


def test_the_next_attempt_carries_the_ledger_the_time_and_foreign_headers() -> None:
    first = Task.from_record(Record("tasks.normal", 0, 1, timestamp_ms=50, key=ID.encode(), value=RAW, headers=TRACE))
    second = Task.from_record(as_read(first.next_attempt(LOSS), at_ms=99))
    assert (second.id, second.attempt, second.ledger, second.submitted_ms, second.raw) == (ID, 2, (LOSS,), 50, RAW)
    assert [h for h in second.foreign if h[0] == "traceparent"] == list(TRACE)
    third = Task.from_record(as_read(second.next_attempt(replace(LOSS, attempt=2))))
    assert [f.attempt for f in third.ledger] == [1, 2]


def test_lifecycle_values_are_the_bare_id() -> None:
    task = Task.from_record(Record("tasks.normal", 2, 1, timestamp_ms=50, key=ID.encode(), value=RAW))
    for out in (received_event(task, "prime", "demo", "kafka"), started_event(task, "prime", "demo", "node-1", "boot")):
        assert (out.key, out.value) == (ID.encode(), ID.encode())
        event = Event.decode(as_read(out))
        assert (event.id, event.name, event.directory, event.source, event.submitted_ms) == (
            ID,
            "prime",
            "demo",
            "tasks.normal/2/1",
            50,
        )


OUTCOME = Outcome(
    ID,
    "completed",
    b"[2]",
    attempt=2,
    boot="boot",
    node="node-1",
    source=Source("tasks.high", 1, 4),
    submitted_ms=1000,
    name="prime",
    directory="demo",
    content_type="application/json",
    suffix=".json",
    started_ms=1010,
    ended_ms=1050,
    ledger=(LOSS,),
    foreign=TRACE,
)


def test_an_outcome_comes_back_as_it_was_with_its_place() -> None:
    assert Outcome.decode(as_read(OUTCOME.encode(), partition=3)) == replace(OUTCOME, offset=7, partition=3)
    failure = replace(
        OUTCOME,
        outcome="failed",
        value=RAW,
        reason=Reason.TIMEOUT,
        error="too slow",
        content_type="application/octet-stream",
        suffix=".bin",
    )
    assert Outcome.decode(as_read(failure.encode(), partition=3)) == replace(failure, offset=7, partition=3)


def test_the_terminal_events_tell_what_the_outcome_told() -> None:
    done = Event.decode(as_read(replace(OUTCOME, offset=9).completed_event("demo/x.json", 3, "ab")))
    assert (done.file, done.size, done.sha256, done.content_type) == ("demo/x.json", 3, "ab", "application/json")
    assert (done.queued_ms, done.duration_ms, done.outcome_offset, done.attempt) == (10, 40, 9, 2)
    dead = as_read(
        replace(OUTCOME, outcome="failed", value=RAW, reason=Reason.CRASHED, error="died", offset=9).dead_letter()
    )
    event = Event.decode(dead)
    assert (event.reason, event.error, event.ledger, dead.value) == (Reason.CRASHED, "died", (LOSS,), RAW)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("outcome", b"maybe"),
        ("attempt", b"-1"),
        ("attempt", "١".encode()),
        ("chunk", b"1"),
        ("chunks", b"0"),
        ("source", b"x"),
        ("attempts", b"{}"),
    ],
)
def test_an_outcome_with_a_forged_header_is_undecodable(name: str, value: bytes) -> None:
    out = OUTCOME.encode()
    with pytest.raises(Undecodable):
        Outcome.decode(as_read(replace(out, headers=(*out.headers, (name, value)))))


def test_a_claim_holds_its_submissions_as_they_came() -> None:
    tasks = tuple(
        Task(
            ID if n == 0 else f"{n:08}-3f0b-4a86-9a3a-5d3c3f7f0a11",
            RAW + b" " * n,
            attempt=1,
            source=Source("tasks.normal", 3, 10 + n),
            submitted_ms=50,
            ledger=(),
            foreign=TRACE,
        )
        for n in range(3)
    )
    claim = Claim(tasks, by="boot-a", for_="boot-b", generation=4, node="node-1")
    read = as_read(claim.encode(), partition=3)
    assert decode_journal(read) == claim
    assert str(claim.key) == f"{ID}:tasks.normal/3/10:boot-a"
    assert (claim.responsible, claim.go().responsible) == ("boot-a", "boot-b")
    assert offsets_to_commit([claim]) == {("tasks.normal", 3): 13}
    with pytest.raises(Undecodable):
        decode_journal(replace(read, partition=4))
    end = decode_journal(as_read(claim.tombstone("done"), partition=3))
    assert isinstance(end, Tombstone)
    assert (end.key, end.generation, end.why) == (claim.key, 4, "done")


def test_heartbeats_kinds_and_commands_come_back_as_they_were() -> None:
    beat = Heartbeat(
        "boot",
        "node-1",
        host="host",
        pid=42,
        slots=2,
        started_ms=1,
        running=(RunningAttempt(ID, "prime", 1, 2),),
        kinds=("prime",),
        state="draining",
        stats_url="http://x/",
        release="0.1.0",
    )
    assert Heartbeat.decode(as_read(beat.encode())) == beat
    kind = KindInfo(
        "prime",
        {"type": "object"},
        timeout_s=60.0,
        max_attempts=3,
        content_type=None,
        suffix=".json",
        memory_mb=64,
        description="Primes.",
        version="abc",
    )
    assert KindInfo.decode(as_read(kind.encode())) == kind
    assert Cancel.decode(as_read(Cancel(ID, "me").encode())) == Cancel(ID, "me")
    assert Cancel.decode(replace(as_read(Cancel(ID).encode()), value=b'{"command": "later"}')) is None
    assert Progress.decode(as_read(Progress(ID, 1, 0.5, "half").encode())) == Progress(ID, 1, 0.5, "half")


def test_fields_of_a_later_version_are_passed_over() -> None:
    beat = Heartbeat("boot", "node-1", host="host", pid=42, slots=2, started_ms=1)
    later = as_read(beat.encode())
    value = orjson.dumps(orjson.loads(later.value or b"") | {"colour": "blue"})
    assert Heartbeat.decode(replace(later, value=value, headers=(("version", b"9"), ("x", b"y")))) == beat


def test_the_results_roots_record_is_no_heartbeat() -> None:
    assert not Heartbeat.is_heartbeat(Record("nodes", 0, 0, timestamp_ms=0, key=b"results-root/1", value=b"{}"))
    assert not Heartbeat.is_heartbeat(Record("nodes", 0, 0, timestamp_ms=0, key=b"boot", value=None))
    assert Heartbeat.is_heartbeat(as_read(Heartbeat("boot", "n", host="h", pid=1, slots=1, started_ms=1).encode()))


def test_what_a_later_version_has_put_into_a_ledger_travels_on() -> None:
    raw = orjson.dumps(
        [{"attempt": 1, "cause": "quota-met", "node": "n", "started_ms": 1, "ended_ms": 2, "detail": "", "later": [1]}]
    )
    failures = decode_ledger(raw)
    assert [str(f.cause) for f in failures] == ["quota-met"]
    assert orjson.loads(encode_ledger((*failures, LOSS)))[0] == orjson.loads(raw)[0]
    task = as_read(
        Task(ID, RAW, attempt=2, source=Source("tasks.high", 0, 1), submitted_ms=1, ledger=failures).next_attempt(LOSS)
    )
    assert Task.from_record(task).ledger == (*failures, LOSS)


def test_a_ledger_of_a_later_version_stays_below_its_limit() -> None:
    failures = [replace(LOSS, attempt=i + 1, more=orjson.dumps({"later": "x" * 9000}).decode()) for i in range(9)]
    raw = encode_ledger(failures)
    assert len(raw) <= MAX_LEDGER_BYTES
    assert [f.attempt for f in decode_ledger(raw)] == list(range(1, 10))


def test_words_of_a_later_version_are_kept_and_forged_ones_refused() -> None:
    assert Reason("over-quota") == "over-quota"
    assert Reason("over-quota") not in set(Reason)
    for forged in ("", "Over Quota", "x" * 41, 7):
        with pytest.raises(ValueError, match="is not a valid Reason"):
            Reason(forged)


def test_every_message_says_its_version_and_passes_over_a_later_one() -> None:
    sent = replace(OUTCOME, foreign=(("later", b"\xff"),)).encode()
    assert ("version", b"1") in sent.headers
    later = replace(sent, headers=tuple((k, b"2" if k == "version" else v) for k, v in sent.headers))
    assert Outcome.decode(as_read(later)).foreign == (("later", b"\xff"),)


def test_a_heartbeat_in_a_state_of_a_later_version_is_of_a_node_that_lives_and_is_given_nothing() -> None:
    beat = Heartbeat("b", "node-1", host="h", pid=1, slots=2, started_ms=3)
    later = replace(beat.encode(), value=orjson.dumps(orjson.loads(beat.encode().value or b"") | {"state": "idle"}))
    assert Heartbeat.decode(as_read(later)).state == "draining"

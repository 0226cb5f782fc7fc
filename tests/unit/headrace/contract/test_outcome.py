"""Outcomes come back as they were sent, and the terminal events repeat them."""

from dataclasses import replace

import pytest

from headrace.contract.lifecycle import Event
from headrace.contract.outcome import Outcome
from headrace.contract.records import Source
from headrace.contract.states import Reason
from headrace.errors import Undecodable
from tests.rigs.messages import ID, LOSS, RAW, TRACE, as_read

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


def test_an_outcome_comes_back_as_it_was_with_its_offset() -> None:
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


def test_the_terminal_events_repeat_the_outcome() -> None:
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


def test_a_message_has_its_version_and_a_later_one_is_ignored() -> None:
    sent = replace(OUTCOME, foreign=(("later", b"\xff"),)).encode()
    assert ("version", b"1") in sent.headers
    later = replace(sent, headers=tuple((k, b"2" if k == "version" else v) for k, v in sent.headers))
    assert Outcome.decode(as_read(later)).foreign == (("later", b"\xff"),)

"""What is copied from a record into others is bounded: whatever it holds, the records made of it fit into the log."""

from dataclasses import replace

import pytest

from agents.completion.outcomes import outcome_without_result
from agents.membership.death_notices import death_notice
from headrace.contract.bounds import MAX_MESSAGE_BYTES, MAX_TEXT_BYTES, bounded_text
from headrace.contract.cluster import Heartbeat
from headrace.contract.journal import Claim, Tombstone
from headrace.contract.ledger import Failure
from headrace.contract.lifecycle import Event
from headrace.contract.outcome import Outcome
from headrace.contract.records import Outgoing, Record
from headrace.contract.states import Cause, Reason
from headrace.contract.task import Task
from headrace.errors import Undecodable
from headrace.kafka.topics import load_topics
from tests.unit.headrace.kafka.test_topics_file import DECODERS, record_of

LOSS = Failure(1, Cause.NODE_LOSS, node="node-1", started_ms=5, ended_ms=9, detail="x" * 5000)
SIZES = (10_000, 1_900_000, 2_090_000, 3_000_000)
TEXTS = ("name", "directory", "node", "boot", "error", "content-type", "suffix", "reason", "file", "sha256", "for")


def made_of(message: object) -> list[Outgoing]:
    """Every record that a role makes of a message."""
    match message:
        case Outcome():
            return [message.encode(), message.dead_letter(), message.completed_event("demo/x.json", 5, "ab" * 32)]
        case Claim():
            return [message.tombstone("reaped"), *(t.next_attempt(LOSS) for t in message.tasks)]
        case Tombstone():
            return []
        case Heartbeat():
            return [death_notice(message.boot, message).encode()]
        case Task():
            lost = outcome_without_result(message, boot="b", node="n", reason=Reason.FAILED, error="e" * 10_000)
            return [message.next_attempt(LOSS), lost]
        case _:
            return []


def size_of(record: Outgoing) -> int:
    return len(record.key or b"") + len(record.value or b"") + sum(len(k) + len(v) + 8 for k, v in record.headers)


def hostile(record: Record, size: int) -> list[Record]:
    """The record with each of its parts as large as `size`."""
    large = b"x" * size
    headers = [tuple((k, large if k == name else v) for k, v in record.headers) for name, _ in record.headers]
    headers += [(*record.headers, (name, large)) for name in (*TEXTS, "foreign")]
    headers += [(*record.headers, *((f"h{i}", b"") for i in range(size // 100)))]
    key, value = (record.key or b"") + large, (record.value or b"") + b" " * size
    return [
        *(replace(record, headers=h) for h in headers),
        replace(record, value=value),
        replace(record, key=key),
        replace(record, key=large),
    ]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", sorted(DECODERS))
def test_what_is_made_of_a_hostile_record_fits_into_a_record(name: str, size: int) -> None:
    decode = Task.from_record if name.startswith(("tasks.normal", "tasks.high")) else DECODERS[name]
    for record in hostile(record_of(load_topics()[name]), size):
        try:
            message = decode(record)
        except Undecodable:
            continue
        for made in made_of(message):
            assert size_of(made) < MAX_MESSAGE_BYTES


@pytest.mark.parametrize("name", ["results", "tasks.running", "nodes", "kinds", "tasks.control", "lifecycle.received"])
def test_a_record_that_no_role_can_have_sent_is_refused(name: str) -> None:
    record = record_of(load_topics()[name])
    with pytest.raises(Undecodable, match="bytes"):
        DECODERS[name](replace(record, headers=(*record.headers, ("x", b"x" * 3_000_000))))


def test_a_claim_too_large_to_be_of_a_role_is_refused_by_whoever_decodes_it() -> None:
    record = record_of(load_topics()["tasks.running"])
    with pytest.raises(Undecodable, match="bytes"):
        Claim.decode(replace(record, headers=(*record.headers, ("x", b"x" * 3_000_000))))


def test_a_long_text_of_a_later_version_is_cut_and_ends_its_task() -> None:
    record = record_of(load_topics()["results"])
    long = replace(record, headers=(*record.headers, ("name", "ä".encode() * 5000)))
    assert Outcome.decode(long).name == "ä" * (MAX_TEXT_BYTES // 2) + "…"
    event = Event.decode(replace(record_of(load_topics()["tasks.dead"]), headers=long.headers))
    assert event.name == Outcome.decode(long).name


def test_a_cut_text_ends_at_a_whole_character() -> None:
    assert bounded_text("aä".encode() * 10, 5) == "aäa…"
    assert bounded_text(b"12345", 5) == "12345"
    with pytest.raises(UnicodeDecodeError):
        bounded_text(b"ok\xff", 2)

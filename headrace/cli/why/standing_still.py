"""What a task that has not ended waits for now, by the nodes' last heartbeats: the last lines of `headrace why`.

A node says there which partition stands still at which task, which tasks wait aside for room on another node, and which
attempt is to run alone. KafkaException or Retryable when Kafka does not answer.
"""

from collections.abc import Iterable

from headrace.cli.why.timeline import Line
from headrace.contract.cluster import Heartbeat, Wait
from headrace.contract.journal import Claim, Tombstone, decode_journal
from headrace.contract.records import Record, Source
from headrace.errors import Undecodable
from headrace.kafka.client import SHORT_FETCH, Kafka
from headrace.kafka.reading import log_bounds, read_batches

_NODES = ("nodes", 0)
_LAST = 5000  # records of `nodes`: heartbeats of some minutes, or of fewer with many nodes
_FRESH_MS = 30_000  # a node that was silent for longer before the newest heartbeat says nothing about now


def waits_of(kafka: Kafka, records: Iterable[Record], task_id: str) -> list[Line]:
    """A line for each thing that the task waits for; none once it has ended. `records`: all that there are about it."""
    found = list(records)
    if not found or any(r.topic in ("lifecycle.completed", "tasks.dead") for r in found):
        return []
    consumer = kafka.consumer(None, **SHORT_FETCH)
    try:
        low, end = log_bounds(kafka, consumer, [_NODES])[_NODES]
        batches = read_batches(kafka, consumer, {_NODES: (max(low, end - _LAST), end)})
        beats = _newest(kafka.record(message) for batch in batches for message in batch)
    finally:
        consumer.close()
    return [
        Line(record.timestamp_ms, str(record.source), f"now, by node {beat.node}: {wait.text}")
        for record, beat in beats
        for wait in beat.waits
        if _concerns(wait, found, task_id)
    ]


def _newest(records: Iterable[Record]) -> list[tuple[Record, Heartbeat]]:
    """The last heartbeat of each boot that still sends some."""
    newest: dict[str, tuple[Record, Heartbeat]] = {}
    for record in records:
        try:
            if Heartbeat.is_heartbeat(record):
                beat = Heartbeat.decode(record)
                newest[beat.boot] = record, beat
        except (Undecodable, UnicodeDecodeError):
            continue
    now_ms = max((record.timestamp_ms for record, _ in newest.values()), default=0)
    return [(r, b) for r, b in newest.values() if b.state != "dead" and now_ms - r.timestamp_ms < _FRESH_MS]


def _concerns(wait: Wait, records: Iterable[Record], task_id: str) -> bool:
    """Whether the task is the one that waits, or waits behind it."""
    if wait.task == task_id:
        return True
    try:
        first = Source.parse(wait.source)
    except Undecodable:
        return False
    claims = _open_claims(records)
    if wait.why == "aside":
        return any(c.phase == "claimed" and c.for_ != c.by and _is_of_kind(c, wait.name) for c in claims)
    queued = [r for r in records if (r.topic, r.partition) == (first.topic, first.partition)]
    return wait.why == "head" and not claims and any(r.offset > first.offset for r in queued)


def _open_claims(records: Iterable[Record]) -> list[Claim]:
    open_claims: dict[str, Claim] = {}
    for record in sorted((r for r in records if r.topic == "tasks.running"), key=lambda r: (r.partition, r.offset)):
        try:
            entry = decode_journal(record)
        except Undecodable:
            continue
        if isinstance(entry, Tombstone):
            open_claims.pop(str(entry.key), None)
        elif isinstance(entry, Claim):
            open_claims[str(entry.key)] = entry
    return list(open_claims.values())


def _is_of_kind(claim: Claim, kind: str) -> bool:
    return any(task.submission().name == kind for task in claim.tasks)

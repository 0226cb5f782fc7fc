"""The lifecycle events `received` and `started`, and how readers decode every event of a task.

Receiver and worker send the two; `outcome.py` makes the two that end a task. Gateway, audit and `headrace why` decode
all four as an `Event`. Undecodable for a record without a task id, or with a forged header.
"""

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, field

from headrace.contract.bounds import MAX_ATTEMPTS
from headrace.contract.ids import id_of_key
from headrace.contract.ledger import Failure, decode_ledger
from headrace.contract.records import Headers, Outgoing, Record, headers_of
from headrace.contract.states import Reason
from headrace.contract.task import Task
from headrace.errors import Undecodable


def received_event(task: Task, name: str, directory: str, via: str) -> Outgoing:
    """lifecycle.received: the task has arrived. Name and directory are "" when the submission is not valid."""
    return lifecycle_record(
        "lifecycle.received",
        task.id,
        task.foreign,
        name=name,
        directory=directory,
        via=via,
        source=task.source,
        **{"submitted-ms": task.submitted_ms},
    )


def started_event(task: Task, name: str, directory: str, node: str, boot: str) -> Outgoing:
    """lifecycle.started: an attempt has begun on that node."""
    return lifecycle_record(
        "lifecycle.started",
        task.id,
        task.foreign,
        name=name,
        directory=directory,
        attempt=task.attempt,
        node=node,
        boot=boot,
        source=task.source,
        **{"submitted-ms": task.submitted_ms},
    )


@dataclass(frozen=True, slots=True)
class Event:
    """A lifecycle event or dead letter, times in ms. Fields that its topic lacks have their defaults."""

    topic: str
    id: str
    at_ms: int
    _: KW_ONLY
    name: str = ""
    directory: str = ""
    attempt: int = 0
    node: str = ""
    via: str = ""
    source: str = ""
    submitted_ms: int = 0
    file: str = ""
    size: int = 0
    sha256: str = ""
    content_type: str = ""
    queued_ms: int | None = None
    duration_ms: int | None = None
    outcome_offset: int = -1
    reason: Reason | None = None
    error: str = ""
    ledger: Sequence[Failure] = field(default=())
    partition: int = -1
    offset: int = -1

    @classmethod
    def decode(cls, record: Record) -> "Event":
        """Undecodable when the key is not a task id or a header breaks its rule."""
        record.check_size()
        task_id = id_of_key(record.key) or id_of_key(record.value if record.topic != "tasks.dead" else None)
        if task_id is None:
            raise Undecodable(f"the key of a record of {record.topic} must be a task id", record.value)
        if record.has_unreadable_name:
            raise Undecodable("the name of a header is not UTF-8", record.value)
        found = record.by_name()
        timed = "duration-ms" in found
        return cls(
            topic=record.topic,
            id=task_id,
            at_ms=record.timestamp_ms,
            name=found.text("name", ""),
            directory=found.text("directory", ""),
            attempt=found.number("attempt", 0, MAX_ATTEMPTS),
            node=found.text("node", ""),
            via=found.text("via", ""),
            source=found.text("source", ""),
            submitted_ms=found.milliseconds("submitted-ms", record.timestamp_ms),
            file=found.text("file", ""),
            size=found.number("bytes", 0),
            sha256=found.text("sha256", ""),
            content_type=found.text("content-type", ""),
            queued_ms=found.milliseconds("queued-ms", 0) if timed else None,
            duration_ms=found.milliseconds("duration-ms") if timed else None,
            outcome_offset=found.number("outcome-offset", 0),
            reason=decode_reason(record, "failed") if record.topic == "tasks.dead" else None,
            error=found.text("error", ""),
            ledger=decode_ledger(found.raw("attempts")) if "attempts" in found else (),
            partition=record.partition,
            offset=record.offset,
        )


def lifecycle_record(topic: str, task_id: str, foreign: Headers, /, **values: object) -> Outgoing:
    """A record whose key and value are the bare task id; everything else is in headers."""
    return Outgoing(topic, task_id.encode(), task_id.encode(), headers_of(values, foreign))


def decode_reason(record: Record, default: str) -> Reason:
    """The header `reason`, or `default` without one; Undecodable when it cannot be a reason of any version."""
    text = record.text("reason", default)
    try:
        return Reason(text)
    except ValueError:
        raise Undecodable(f"reason is {text[:40]!r}", record.value) from None

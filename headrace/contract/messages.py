"""The messages on a task's way, in the order it takes: submission, received, started, outcome, completed or dead.

Each decodes from a Record and encodes to an Outgoing, and fails with one error, Undecodable (or Invalid for a
submission that breaks a rule), which keeps the bad bytes. Times are milliseconds since the epoch (`…_ms`, UTC) or
RFC 3339 where a person wrote them. Claims are in `journal.py`, heartbeats, kinds and commands in `cluster.py`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Literal

import orjson

from headrace.contract.bounds import MOST_ATTEMPTS, MOST_FOREIGN_BYTES, whole
from headrace.contract.directory import check_directory
from headrace.contract.ids import id_of_key, id_of_place
from headrace.contract.ledger import Failure, decode_ledger, encode_ledger
from headrace.contract.records import Outgoing, Record, Source, headers_of
from headrace.contract.states import Reason
from headrace.errors import Invalid, Undecodable

MAX_SUBMISSION_BYTES = 900_000  # leaves room for claim, ledger and headers below the broker's limit of a record
MAX_NAME_CHARACTERS = 200
CHUNK_BYTES = 512_000  # of a big result on `results`: small ones overtake between two chunks

Foreign = tuple[tuple[str, bytes], ...]
OutcomeStatus = Literal["completed", "failed", "cancelled"]


@dataclass(frozen=True, slots=True)
class Submission:
    """What a person asks for: the value of `tasks.normal` and `tasks.high`, and the body of POST /tasks."""

    name: str  # task kind
    payload: dict[str, Any]  # parameters, by the kind's schema
    directory: str  # below the results root
    timeout_s: float | None = None  # of one attempt; None = the kind's
    max_attempts: int | None = None  # None = the kind's
    expires_at: datetime | None = None  # not started after it
    priority: Literal["normal", "high"] = "normal"

    @classmethod
    def decode(cls, raw: bytes | None) -> "Submission":
        """From JSON bytes; Undecodable when they are no JSON, Invalid naming the field that breaks a rule."""
        if raw is None:
            raise Undecodable("an empty record is no submission", raw)
        if len(raw) > MAX_SUBMISSION_BYTES:
            raise Invalid(f"the submission has {len(raw)} bytes: {MAX_SUBMISSION_BYTES} at most")
        try:
            found = orjson.loads(raw)
        except orjson.JSONDecodeError as e:
            raise Undecodable(f"not JSON: {e}", raw) from None
        return cls.from_json(found)

    @classmethod
    def from_json(cls, found: object) -> "Submission":
        if not isinstance(found, dict):
            raise Invalid("a submission is a JSON object with name, payload and directory")
        name = found.get("name")
        if not isinstance(name, str) or not name or len(name) > MAX_NAME_CHARACTERS:
            raise Invalid(f"name must be a task kind's name, 1 to {MAX_NAME_CHARACTERS} characters", "/name")
        payload = found.get("payload", {})
        if not isinstance(payload, dict):
            raise Invalid("payload must be a JSON object with the kind's parameters", "/payload")
        priority = found.get("priority", "normal")
        if priority not in ("normal", "high"):
            raise Invalid("priority must be 'normal' or 'high'", "/priority")
        return cls(
            name=name,
            payload=payload,
            directory=check_directory(found.get("directory")),
            timeout_s=_number(found, "timeout_s", 0.001, 30 * 86400.0),
            max_attempts=_count(found, "max_attempts", 1, 100),
            expires_at=_moment(found, "expires_at"),
            priority=priority,
        )


@dataclass(frozen=True, slots=True)
class Task:
    """One attempt to be made: the submission as it came, with what its headers and its place in the log say."""

    id: str
    raw: bytes  # the submission as it came, never encoded anew
    attempt: int
    source: Source  # the record that this attempt was taken from
    submitted_ms: int  # when the broker took the submission in
    ledger: tuple[Failure, ...] = ()  # the attempts before this one
    foreign: Foreign = ()  # headers that travel along

    @classmethod
    def from_record(cls, record: Record) -> "Task":
        """Never fails on the value. Headers on `tasks.high` that are not ours are Undecodable (a forged record).

        So are foreign headers that are too many to travel along: they would not fit into a claim.
        """
        bare = cls.bare(record)
        attempt, submitted_ms, ledger = 1, record.timestamp_ms, bare.ledger
        if record.unreadable:
            raise Undecodable("the name of one of its headers is no UTF-8", record.value)
        if (size := _size(record.foreign_headers)) > MOST_FOREIGN_BYTES:
            raise Undecodable(f"its headers have {size} bytes: {MOST_FOREIGN_BYTES} at most", record.value)
        # Replays come on tasks.high alone, where only Headrace may write: elsewhere such headers are a producer's own.
        if record.topic == "tasks.high":
            attempt = record.number("attempt", 1, MOST_ATTEMPTS)
            if attempt < 1:
                raise Undecodable(f"attempt {attempt} is out of range", record.value)
            ledger = decode_ledger(record.text("ledger", "[]").encode())
            submitted_ms = record.milliseconds("submitted-ms", record.timestamp_ms)
        return replace(bare, attempt=attempt, submitted_ms=submitted_ms, ledger=ledger, foreign=record.foreign_headers)

    @classmethod
    def bare(cls, record: Record) -> "Task":
        """The task of a record whose headers are not to be believed: a first attempt, without them. Never fails."""
        task_id = id_of_key(record.key) or id_of_place(record.topic, record.partition, record.offset)
        return cls(task_id, record.value or b"", 1, record.source, record.timestamp_ms)

    def submission(self) -> Submission:
        return Submission.decode(self.raw)

    def next_attempt(self, failure: Failure) -> Outgoing:
        """The replay of this task at high priority, with `failure` in its ledger."""
        headers = {
            "attempt": self.attempt + 1,
            "ledger": encode_ledger((*self.ledger, failure)),
            "submitted-ms": self.submitted_ms,
        }
        return Outgoing("tasks.high", self.id.encode(), self.raw, headers_of(headers, self.foreign))


def received(task: Task, name: str, directory: str, via: str) -> Outgoing:
    """lifecycle.received: the platform has taken the task in. name and directory are "" when it cannot be read."""
    return _lifecycle(
        "lifecycle.received",
        task.id,
        task.foreign,
        name=name,
        directory=directory,
        via=via,
        source=task.source,
        **{"submitted-ms": task.submitted_ms},
    )


def started(task: Task, name: str, directory: str, node: str, boot: str) -> Outgoing:
    """lifecycle.started: an attempt begins on that node."""
    return _lifecycle(
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
class Outcome:
    """How the attempt that ends a task ended: `results`, from worker, reaper or gateway to the storekeeper.

    `value` is the result's bytes (or chunk `chunk` of `chunks`) when completed, else the submission as it came.
    """

    id: str
    outcome: OutcomeStatus
    value: bytes
    attempt: int
    boot: str  # who ran or judged it; joins chunks together with id, attempt and source
    node: str
    source: Source
    submitted_ms: int
    name: str = ""
    directory: str = ""
    reason: Reason | None = None  # None when completed
    error: str = ""  # in words, for people
    content_type: str = "application/octet-stream"
    suffix: str = ".bin"
    chunk: int = 0
    chunks: int = 1
    started_ms: int = 0  # 0 = never started
    ended_ms: int = 0
    ledger: tuple[Failure, ...] = ()  # every failed attempt, the last one included
    foreign: Foreign = ()
    offset: int = -1  # its own offset on `results`, set by decode; the terminal event carries it on
    partition: int = -1

    def encode(self) -> Outgoing:
        done = self.outcome == "completed"
        headers = {
            "outcome": self.outcome,
            "reason": self.reason,
            "name": self.name,
            "directory": self.directory,
            "attempt": self.attempt,
            "boot": self.boot,
            "node": self.node,
            "source": self.source,
            "submitted-ms": self.submitted_ms,
            "content-type": self.content_type if done else None,
            "suffix": self.suffix if done else None,
            "chunk": self.chunk,
            "chunks": self.chunks,
            **self._times(),
            "started-ms": self.started_ms,
            "error": self.error or None,
            "attempts": encode_ledger(self.ledger) if self.ledger else None,
        }
        return Outgoing("results", self.id.encode(), self.value, headers_of(headers, self.foreign))

    @classmethod
    def decode(cls, record: Record) -> "Outcome":
        task_id = id_of_key(record.key)
        if task_id is None:
            raise Undecodable("the key of an outcome is a task id", record.value)
        outcome = record.text("outcome")
        if outcome not in ("completed", "failed", "cancelled"):
            raise Undecodable(f"outcome is {outcome[:40]!r}", record.value)
        chunk, chunks = record.number("chunk", 0), record.number("chunks", 1)
        if not 0 <= chunk < chunks:
            raise Undecodable(f"chunk {chunk} of {chunks}", record.value)
        started_ms = record.milliseconds("started-ms", 0)
        return cls(
            id=task_id,
            outcome=outcome,  # type: ignore[arg-type]  # narrowed above
            value=record.value or b"",
            attempt=record.number("attempt", most=MOST_ATTEMPTS),
            boot=record.text("boot", ""),
            node=record.text("node", ""),
            source=Source.parse(record.text("source")),
            submitted_ms=record.milliseconds("submitted-ms"),
            name=record.text("name", ""),
            directory=record.text("directory", ""),
            reason=_reason(record, outcome),
            error=record.text("error", ""),
            content_type=record.text("content-type", "application/octet-stream"),
            suffix=record.text("suffix", ".bin"),
            chunk=chunk,
            chunks=chunks,
            started_ms=started_ms,
            ended_ms=started_ms + record.milliseconds("duration-ms", 0) if started_ms else 0,
            ledger=decode_ledger(record.text("attempts", "[]").encode()),
            foreign=record.foreign_headers,
            offset=record.offset,
            partition=record.partition,
        )

    def completed(self, file: str, size: int, sha256: str) -> Outgoing:
        """lifecycle.completed: the result is safely on disk, in `file` below the results root."""
        return _lifecycle(
            "lifecycle.completed",
            self.id,
            self.foreign,
            name=self.name,
            attempt=self.attempt,
            node=self.node,
            directory=self.directory,
            file=file,
            bytes=size,
            sha256=sha256,
            **self._terminal(),
            **{"content-type": self.content_type},
        )

    def dead(self) -> Outgoing:
        """tasks.dead: the task ended without a result; the value is the submission as it came."""
        headers = {
            "reason": self.reason or Reason.FAILED,
            "error": self.error,
            "name": self.name,
            "attempt": self.attempt,
            "node": self.node,
            "directory": self.directory,
            "attempts": encode_ledger(self.ledger),
        }
        return Outgoing(
            "tasks.dead", self.id.encode(), self.value, headers_of(headers | self._terminal(), self.foreign)
        )

    def _times(self) -> dict[str, object]:
        """How long it waited and how long it ran; None for what never started."""
        queued_ms, duration_ms = self.started_ms - self.submitted_ms, self.ended_ms - self.started_ms
        ran = bool(self.started_ms)
        return {"queued-ms": max(0, queued_ms) if ran else None, "duration-ms": max(0, duration_ms) if ran else None}

    def _terminal(self) -> dict[str, object]:
        return {
            **self._times(),
            "source": self.source,
            "submitted-ms": self.submitted_ms,
            "outcome-offset": self.offset,
        }


@dataclass(frozen=True, slots=True)
class Event:
    """A lifecycle or dead-letter record as readers fold it; fields that its topic lacks are at their defaults."""

    topic: str
    id: str
    at_ms: int
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
        task_id = id_of_key(record.key) or id_of_key(record.value if record.topic != "tasks.dead" else None)
        if task_id is None:
            raise Undecodable(f"a record of {record.topic} has a task id as its key", record.value)
        if record.unreadable:
            raise Undecodable("the name of a header is no UTF-8", record.value)
        timed = any(k == "duration-ms" for k, _ in record.headers)
        return cls(
            topic=record.topic,
            id=task_id,
            at_ms=record.timestamp_ms,
            name=record.text("name", ""),
            directory=record.text("directory", ""),
            attempt=record.number("attempt", 0, MOST_ATTEMPTS),
            node=record.text("node", ""),
            via=record.text("via", ""),
            source=record.text("source", ""),
            submitted_ms=record.milliseconds("submitted-ms", record.timestamp_ms),
            file=record.text("file", ""),
            size=record.number("bytes", 0),
            sha256=record.text("sha256", ""),
            content_type=record.text("content-type", ""),
            queued_ms=record.milliseconds("queued-ms", 0) if timed else None,
            duration_ms=record.milliseconds("duration-ms") if timed else None,
            outcome_offset=record.number("outcome-offset", 0),
            reason=_reason(record, "failed") if record.topic == "tasks.dead" else None,
            error=record.text("error", ""),
            ledger=decode_ledger(record.text("attempts", "[]").encode()),
            partition=record.partition,
            offset=record.offset,
        )


@dataclass(frozen=True, slots=True)
class Progress:
    """What a running attempt reports: `fraction` from 0 to 1, with a message for people."""

    id: str
    attempt: int
    fraction: float
    message: str = ""

    def encode(self) -> Outgoing:
        value = {"attempt": self.attempt, "fraction": self.fraction, "message": self.message}
        return Outgoing("progress", self.id.encode(), orjson.dumps(value))

    @classmethod
    def decode(cls, record: Record) -> "Progress":
        task_id = id_of_key(record.key)
        try:
            found = orjson.loads(record.value or b"")
            if task_id is None:
                raise ValueError("the key is no task id")
            return cls(
                task_id,
                whole(found["attempt"], MOST_ATTEMPTS),
                min(1.0, max(0.0, float(found["fraction"]))),
                str(found.get("message", ""))[:1000],
            )
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as e:
            raise Undecodable(f"not a progress report: {e}", record.value) from None


def _lifecycle(topic: str, task_id: str, foreign: Foreign, /, **values: object) -> Outgoing:
    return Outgoing(topic, task_id.encode(), task_id.encode(), headers_of(values, foreign))


def _size(headers: Foreign) -> int:
    """Bytes of headers as they are counted: each costs something beside its text."""
    return sum(len(k) + len(v) + 16 for k, v in headers)


def _reason(record: Record, outcome: str) -> Reason | None:
    if outcome == "completed":
        return None
    text = record.text("reason", outcome)
    try:
        return Reason(text)
    except ValueError:
        raise Undecodable(f"reason is {text[:40]!r}", record.value) from None


def _number(found: dict[str, Any], name: str, least: float, most: float) -> float | None:
    value = found.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise Invalid(f"{name} must be a number of seconds from {least:g} to {most:g}", f"/{name}")
    return float(value)


def _count(found: dict[str, Any], name: str, least: int, most: int) -> int | None:
    value = found.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise Invalid(f"{name} must be a whole number from {least} to {most}", f"/{name}")
    return value


def _moment(found: dict[str, Any], name: str) -> datetime | None:
    value = found.get(name)
    if value is None:
        return None
    try:
        moment = datetime.fromisoformat(value)
        if moment.tzinfo is None:
            raise ValueError
    except (ValueError, TypeError):
        raise Invalid(f"{name} must be RFC 3339 with an offset, such as 2026-11-23T18:00:00Z", f"/{name}") from None
    return moment

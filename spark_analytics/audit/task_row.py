"""One task as the audit's projection keeps it, and what an event changes in it. Pure; nothing here fails."""

from dataclasses import dataclass

from headrace.contract.records import Record, Source
from headrace.errors import Undecodable

_MOST_ATTEMPTS = 62  # that one integer's bits can tell apart; no task has so many


@dataclass(slots=True)
class TaskRow:
    """A row of `tasks`, with its columns in their order. Times are milliseconds since the epoch."""

    id: bytes
    partition: int
    received_ms: int | None = None  # time of the first record
    ended_ms: int | None = None
    ending: str | None = None  # completed or dead
    starts: int = 0  # one bit for each attempt
    source_topic: str = ""  # the record of its submission that its first event names
    source_partition: int = -1
    source_offset: int = -1
    missed: int = 0  # audits in a row that did not find it anywhere

    @property
    def source(self) -> str:
        """The source as text; empty while it is not known."""
        return str(Source(self.source_topic, self.source_partition, self.source_offset)) if self.source_topic else ""

    def has(self, event: str) -> bool:
        """Whether it has been received, or its first attempt has started."""
        return self.received_ms is not None if event == "received" else bool(self.starts & 1 << 1)

    def row(self) -> tuple[object, ...]:
        return (
            self.id,
            self.partition,
            self.received_ms,
            self.ended_ms,
            self.ending,
            self.starts,
            self.source_topic,
            self.source_partition,
            self.source_offset,
            self.missed,
        )

    def add_event(self, event: str, record: Record) -> bool:
        """Adds the event; False for a repeat, or for a start whose attempt cannot be read."""
        if event == "received":
            if self.received_ms is not None:
                return False
            self.received_ms = record.timestamp_ms
            return True
        if event == "started":
            attempt = attempt_of(record)
            if not 0 < attempt <= _MOST_ATTEMPTS:
                return attempt > 0
            bit = 1 << attempt
            if self.starts & bit:
                return False
            self.starts |= bit
            return True
        if self.ended_ms is not None:
            return False
        self.ended_ms, self.ending, self.missed = record.timestamp_ms, event, 0
        return True


def submission_source(event: str, record: Record) -> Source | None:
    """The record of the submission that a received event, or the start of a first attempt, names; else None."""
    if event != "received" and not (event == "started" and attempt_of(record) == 1):
        return None
    try:
        return Source.parse(record.text("source", ""))
    except Undecodable:
        return None  # then only claims and queues can show that the task is alive


def attempt_of(record: Record) -> int:
    """The attempt that a started event names; 0 when it cannot be read."""
    try:
        return record.number("attempt")
    except Undecodable:
        return 0

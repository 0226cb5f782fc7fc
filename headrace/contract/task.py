"""A task as one record of `tasks.normal` or `tasks.high` describes it: one attempt to make.

Intake and receiver decode it; the reaper and the retry code encode its next attempt. Undecodable for forged headers.
"""

from dataclasses import KW_ONLY, dataclass, field

from headrace.contract.bounds import MAX_ATTEMPTS, MAX_FOREIGN_BYTES
from headrace.contract.ids import id_of_key, id_of_source
from headrace.contract.ledger import Failure, decode_ledger, encode_ledger
from headrace.contract.records import (
    PROTOCOL_VERSION,
    Headers,
    Outgoing,
    Record,
    Source,
    headers_of,
    shrink_to_fit,
    size_of_headers,
)
from headrace.contract.submission import Submission
from headrace.errors import Undecodable


@dataclass(frozen=True, slots=True)
class Task:
    """One attempt to make: the submission as it came, and what the record's headers and source say."""

    id: str
    raw: bytes  # the submission as it came; it is never encoded again
    _: KW_ONLY
    attempt: int
    source: Source  # of the record that this attempt was taken from
    submitted_ms: int  # when the broker appended the submission
    ledger: tuple[Failure, ...] = ()  # the failed attempts before this one
    foreign: Headers = ()  # the producer's own headers
    keep_unknown: bool = field(default=False, compare=False)  # a node or a later version has accepted its fields

    @classmethod
    def from_record(cls, record: Record) -> "Task":
        """The task in a record of a task topic, whatever its value is: `submission` checks that.

        Undecodable for forged headers on `tasks.high`, and for more foreign headers than fit into a claim.
        """
        if record.has_unreadable_name:
            raise Undecodable("the name of one of its headers is not UTF-8", record.value)
        foreign = record.foreign_headers
        if (size := size_of_headers(foreign)) > MAX_FOREIGN_BYTES:
            raise Undecodable(f"its headers have {size} bytes: {MAX_FOREIGN_BYTES} at most", record.value)
        attempt, submitted_ms = 1, record.timestamp_ms
        ledger: tuple[Failure, ...] = ()
        # Only Headrace writes to tasks.high, where replays come. On tasks.normal such headers are a producer's own.
        if record.topic == "tasks.high":
            attempt = record.number("attempt", 1, MAX_ATTEMPTS)
            if attempt < 1:
                raise Undecodable(f"attempt {attempt} is out of range", record.value)
            ledger = decode_ledger(record.raw("ledger", b"[]"))
            submitted_ms = record.milliseconds("submitted-ms", record.timestamp_ms)
        return cls(
            _id_of(record),
            record.value or b"",
            attempt=attempt,
            source=record.source,
            submitted_ms=submitted_ms,
            ledger=ledger,
            foreign=foreign,
            keep_unknown=attempt > 1 or _is_later(record),
        )

    @classmethod
    def without_headers(cls, record: Record) -> "Task":
        """The task of a record whose headers cannot be trusted: a first attempt without headers. Never fails."""
        return cls(
            _id_of(record), record.value or b"", attempt=1, source=record.source, submitted_ms=record.timestamp_ms
        )

    def submission(self) -> Submission:
        """The decoded submission; Undecodable or Invalid when it is not a valid one.

        Unknown fields are refused where a submission comes in, and kept in what a node has admitted before: during a
        rolling upgrade that may have been a node of a later version (docs/design/0025-rolling-upgrades.md).
        """
        return Submission.decode(self.raw, keep_unknown=self.keep_unknown)

    def next_attempt(self, failure: Failure) -> Outgoing:
        """The record of the next attempt, on `tasks.high`, with `failure` in its ledger."""
        headers = {
            "attempt": self.attempt + 1,
            "ledger": encode_ledger((*self.ledger, failure)),
            "submitted-ms": self.submitted_ms,
        }
        outgoing = Outgoing("tasks.high", self.id.encode(), self.raw, headers_of(headers, self.foreign))
        return shrink_to_fit(outgoing)  # a forged claim may hold more


def _id_of(record: Record) -> str:
    return id_of_key(record.key) or id_of_source(record.topic, record.partition, record.offset)


def _is_later(record: Record) -> bool:
    """Whether a role of a later version wrote the record. A producer's own header of that name means nothing here."""
    versions = [value for name, value in record.headers if name == "version"]
    return any(v.isdigit() and len(v) < 10 and int(v) > PROTOCOL_VERSION for v in versions[-1:])

"""A task as one record of `tasks.normal` or `tasks.high` describes it: one attempt to make.

Intake and receiver decode it; the reaper and the retry code encode its next attempt. Undecodable for forged headers.
"""

from dataclasses import KW_ONLY, dataclass, replace

from headrace.contract.bounds import MAX_ATTEMPTS, MAX_FOREIGN_BYTES
from headrace.contract.ids import id_of_key, id_of_place
from headrace.contract.ledger import Failure, decode_ledger, encode_ledger
from headrace.contract.records import Headers, Outgoing, Record, Source, headers_of
from headrace.contract.submission import Submission
from headrace.errors import Undecodable


@dataclass(frozen=True, slots=True)
class Task:
    """One attempt to be made: the submission as it came, with what its headers and its place in the log say."""

    id: str
    raw: bytes  # the submission as it came, never encoded anew
    _: KW_ONLY
    attempt: int
    source: Source  # the record that this attempt was taken from
    submitted_ms: int  # when the broker took the submission in
    ledger: tuple[Failure, ...] = ()  # the attempts before this one
    foreign: Headers = ()  # headers that travel along

    @classmethod
    def from_record(cls, record: Record) -> "Task":
        """Never fails on the value. Headers on `tasks.high` that are not ours are Undecodable (a forged record).

        So are foreign headers that are too many to travel along: they would not fit into a claim.
        """
        bare = cls.without_headers(record)
        attempt, submitted_ms, ledger = 1, record.timestamp_ms, bare.ledger
        if record.has_unreadable_name:
            raise Undecodable("the name of one of its headers is no UTF-8", record.value)
        if (size := _size(record.foreign_headers)) > MAX_FOREIGN_BYTES:
            raise Undecodable(f"its headers have {size} bytes: {MAX_FOREIGN_BYTES} at most", record.value)
        # Replays come on tasks.high alone, where only Headrace may write: elsewhere such headers are a producer's own.
        if record.topic == "tasks.high":
            attempt = record.number("attempt", 1, MAX_ATTEMPTS)
            if attempt < 1:
                raise Undecodable(f"attempt {attempt} is out of range", record.value)
            ledger = decode_ledger(record.text("ledger", "[]").encode())
            submitted_ms = record.milliseconds("submitted-ms", record.timestamp_ms)
        return replace(bare, attempt=attempt, submitted_ms=submitted_ms, ledger=ledger, foreign=record.foreign_headers)

    @classmethod
    def without_headers(cls, record: Record) -> "Task":
        """The task of a record whose headers are not to be believed: a first attempt, without them. Never fails."""
        task_id = id_of_key(record.key) or id_of_place(record.topic, record.partition, record.offset)
        return cls(task_id, record.value or b"", attempt=1, source=record.source, submitted_ms=record.timestamp_ms)

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


def _size(headers: Headers) -> int:
    """Bytes of headers as they are counted: each costs something beside its text."""
    return sum(len(k) + len(v) + 16 for k, v in headers)

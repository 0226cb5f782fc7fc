"""How the attempt that ends a task ended, on `results`, and the two events that the storekeeper makes of it.

Worker, reaper and gateway send outcomes; the storekeeper decodes them. Undecodable for forged headers.
"""

from dataclasses import KW_ONLY, dataclass
from typing import Literal

from headrace.contract.bounds import MAX_ATTEMPTS, MAX_FOREIGN_BYTES
from headrace.contract.ids import id_of_key
from headrace.contract.ledger import Failure, decode_ledger, encode_ledger
from headrace.contract.lifecycle import decode_reason, lifecycle_record
from headrace.contract.records import Headers, Outgoing, Record, Source, headers_of, size_of_headers
from headrace.contract.states import Reason
from headrace.errors import Undecodable

CHUNK_BYTES = 512_000  # of a big result on `results`; other outcomes can go between two chunks

OutcomeStatus = Literal["completed", "failed", "cancelled"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How the attempt that ends a task ended. Times are in ms.

    `value` is the result, or chunk `chunk` of its `chunks`, when completed; else it is the submission as it came.
    """

    id: str
    outcome: OutcomeStatus
    value: bytes
    _: KW_ONLY
    attempt: int
    boot: str  # that ran the attempt, or judged its claim; with id, attempt and source it joins chunks
    node: str
    source: Source
    submitted_ms: int
    name: str = ""
    directory: str = ""
    reason: Reason | None = None  # None when completed
    error: str = ""  # a sentence for people
    content_type: str = "application/octet-stream"
    suffix: str = ".bin"
    chunk: int = 0
    chunks: int = 1
    started_ms: int = 0  # 0 = never started
    ended_ms: int = 0
    ledger: tuple[Failure, ...] = ()  # every failed attempt, including the last one
    foreign: Headers = ()
    offset: int = -1  # its own offset on `results`, set by decode and repeated in the terminal event
    partition: int = -1

    def encode(self) -> Outgoing:
        """The record for `results`."""
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
        """Undecodable when the key is not a task id, a header breaks its rule, or no role can have sent the record."""
        record.check_size()
        task_id = id_of_key(record.key)
        if task_id is None:
            raise Undecodable("the key of an outcome must be a task id", record.value)
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
            attempt=record.number("attempt", most=MAX_ATTEMPTS),
            boot=record.text("boot", ""),
            node=record.text("node", ""),
            source=Source.parse(record.text("source")),
            submitted_ms=record.milliseconds("submitted-ms"),
            name=record.text("name", ""),
            directory=record.text("directory", ""),
            reason=None if outcome == "completed" else decode_reason(record, outcome),
            error=record.text("error", ""),
            content_type=record.text("content-type", "application/octet-stream"),
            suffix=record.text("suffix", ".bin"),
            chunk=chunk,
            chunks=chunks,
            started_ms=started_ms,
            ended_ms=started_ms + record.milliseconds("duration-ms", 0) if started_ms else 0,
            ledger=decode_ledger(record.raw("attempts", b"[]")),
            foreign=_foreign(record),
            offset=record.offset,
            partition=record.partition,
        )

    def completed_event(self, file: str, size: int, sha256: str) -> Outgoing:
        """lifecycle.completed: the result is durable in `file`, a path below the results root; `size` in bytes."""
        return lifecycle_record(
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

    def dead_letter(self) -> Outgoing:
        """tasks.dead: the task ended without a result. The value is the submission as it came."""
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
        """How long the task waited and ran; None when it never started."""
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


def _foreign(record: Record) -> Headers:
    """The producer's headers; none when they are more than any task may have, so the outcome is forged."""
    found = record.foreign_headers
    return found if size_of_headers(found) <= MAX_FOREIGN_BYTES else ()

"""What N tasks that have ended leave in Kafka, for one batch of tasks in one partition: the records of every topic.

The records are encoded by Headrace's own messages, so they have the sizes and headers that the roles write. `tasks.*`
and `results` get records that only hold the offsets: the roles trim them once they are settled.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from headrace.contract.cluster import Cancel
from headrace.contract.journal import Claim
from headrace.contract.ledger import Failure
from headrace.contract.lifecycle import received_event, started_event
from headrace.contract.outcome import Outcome
from headrace.contract.records import Outgoing, Source
from headrace.contract.states import Cause, Reason
from headrace.contract.task import Task

from .raw_producer import Batch
from .record_batches import encode_batch
from .task_ids import decimal_column

KINDS = ("prime", "compression", "conversion")
DEAD_EVERY, CANCEL_EVERY = 20, 100  # one task of so many has no result, or was cancelled
_ID = "ffffffff-ffff-4fff-bfff-ffffffffffff"
_SOURCE, _OUTCOME = 7_777_777_701, 7_777_777_702  # stand for offsets, in templates
_RAN_MS, _QUEUED_MS = 12, 4
_NODE, _BOOT = "node-1", "5d3c3f7f-0a11-4a86-9a3a-0b1ff0a43f0b"


@dataclass(frozen=True, slots=True)
class TaskRows:
    """Tasks of one partition in the order in which they came. `ids`: a row of 36 bytes for each.

    Their records have the offsets from `source` on, their outcomes those from `outcome` on; both numbers keep their
    count of digits over all rows. `open`: still in the hour of which the journal and the task topic keep everything.
    """

    partition: int
    ids: np.ndarray
    source: int
    outcome: int
    number: int  # of this batch in its partition: it decides kind and end of its tasks
    at_ms: int
    recent: bool

    def batches(self) -> Iterator[Batch]:
        """The record batches of all topics, in the order in which the roles send them."""
        for record in self._templates():
            yield (record.topic, self.partition), self._encode(record, self.ids)
        if cancelled := len(self.ids) // CANCEL_EVERY:
            yield ("tasks.control", self.partition), self._encode(Cancel(_ID).encode(), self.ids[:cancelled])

    def _templates(self) -> Iterator[Outgoing]:
        kind = KINDS[self.number % len(KINDS)]
        raw = b'{"name": "%s", "payload": {"upper_bound": 1000}, "directory": "demo"}' % kind.encode()
        source = Source("tasks.normal", self.partition, _SOURCE)
        task = Task(_ID, raw, attempt=1, source=source, submitted_ms=self.at_ms)
        claim = Claim((task,), by=_BOOT, for_=_BOOT, generation=4, node=_NODE)
        yield Outgoing("tasks.normal", _ID.encode(), raw) if self.recent else Outgoing("tasks.normal", None, b"")
        yield received_event(task, kind, "demo", "http")
        if self.recent:
            yield claim.encode()
        yield started_event(task, kind, "demo", _NODE, _BOOT)
        yield Outgoing("results", None, b"")
        if self.recent:
            yield claim.tombstone("done")
        yield self._end(task, kind)

    def _end(self, task: Task, kind: str) -> Outgoing:
        began, ended = self.at_ms + _QUEUED_MS, self.at_ms + _QUEUED_MS + _RAN_MS
        outcome = Outcome(
            _ID,
            "completed",
            task.raw,
            attempt=1,
            boot=_BOOT,
            node=_NODE,
            source=task.source,
            submitted_ms=self.at_ms,
            name=kind,
            directory="demo",
            started_ms=began,
            ended_ms=ended,
            offset=_OUTCOME,
        )
        if self.number % DEAD_EVERY != DEAD_EVERY - 1:
            return outcome.completed_event(f"demo/{_ID}.json", 9, hashlib.sha256(b"[2,3,5,7]").hexdigest())
        error = "ValueError: the input is empty"
        failure = Failure(1, Cause.ERROR, node=_NODE, started_ms=began, ended_ms=ended, detail=error)
        failed = replace(outcome, outcome="failed", reason=Reason.FAILED, error=error, ledger=(failure,))
        return failed.dead_letter()

    def _encode(self, record: Outgoing, ids: np.ndarray) -> bytes:
        columns = {_ID.encode(): ids}
        for number, first in ((_SOURCE, self.source), (_OUTCOME, self.outcome)):
            text = decimal_column(first, first + len(ids))
            marker = bytes([0xFE + number % 2]) * text.shape[1]
            record = _with_marker(record, str(number).encode(), marker)
            columns[marker] = text
        return encode_batch(record, columns, self.at_ms)


def _with_marker(record: Outgoing, number: bytes, marker: bytes) -> Outgoing:
    """The template with bytes that occur in no text, as many as the offsets of its rows have digits."""

    def marked(data: bytes | None) -> bytes | None:
        return None if data is None else data.replace(number, marker)

    headers = tuple((name, value.replace(number, marker)) for name, value in record.headers)
    return replace(record, key=marked(record.key), value=marked(record.value), headers=headers)

"""A batch of records folded over the rows that they concern: what the status view commits in one transaction.

Undecodable records are counted and passed over; two different terminal events of a task are an alarm.
"""

import logging
from collections import Counter

from gateway.metrics import Metrics
from gateway.view.projection import Companions, Folded, TaskView, fold_event, fold_submission, id_bytes, id_text
from gateway.view.store import EVENT_TOPICS, NewEvent, StatusStore, StoredProgress
from headrace.contract.lifecycle import Event
from headrace.contract.progress import Progress
from headrace.contract.records import Record
from headrace.contract.task import Task
from headrace.errors import Invalid, Undecodable
from headrace.kafka.client import log_throttled

log = logging.getLogger(__name__)

DIGEST_HEADER = "idempotency-digest"  # of the body that came with an Idempotency-Key; travels with the task


class EventBatch:
    """Records of one batch, folded over the rows that they concern."""

    def __init__(self, store: StatusStore, metrics: Metrics) -> None:
        self._store, self._metrics = store, metrics
        self.rows: dict[bytes, TaskView] = {}
        self.events: list[NewEvent] = []
        self.progress: list[StoredProgress] = []

    @property
    def changed(self) -> set[bytes]:
        return set(self.rows) | {p.id for p in self.progress}

    def fold(self, records: list[Record]) -> None:
        for topic, count in Counter(r.topic for r in records).items():
            self._metrics.folded.labels(topic).inc(count)
        decoded = [(r, m) for r in records if (m := self._decode(r)) is not None]
        ids = {id_bytes(m.id) for _, m in decoded if not isinstance(m, Progress)}
        self.rows = self._store.rows(list(ids))
        for record, message in decoded:
            if isinstance(message, Progress):
                self._add_progress(record, message)
                continue
            row = self.rows.get(id_bytes(message.id))
            folded = _fold(row, record, message)
            self.rows[folded.row.id] = folded.row
            if folded.news:
                self._tell(record, folded.row.id)
            if folded.conflict:
                self._metrics.conflicts.inc()
                log.error("task %s has two terminal events: %s", id_text(folded.row.id), folded.conflict)

    def _decode(self, record: Record) -> "Task | Event | Progress | None":
        try:
            if record.topic in ("tasks.normal", "tasks.high"):
                return Task.from_record(record)
            return Progress.decode(record) if record.topic == "progress" else Event.decode(record)
        except Undecodable as e:
            self._metrics.undecodable.labels(record.topic).inc()
            log_throttled(f"undecodable {record.topic}", "%s passed over: %s", record.source, e)
            return None

    def _add_progress(self, record: Record, progress: Progress) -> None:
        task_id = id_bytes(progress.id)
        report = StoredProgress(
            task_id,
            record.offset,
            record.partition,
            progress.attempt,
            progress.fraction,
            progress.message,
            record.timestamp_ms,
        )
        self.progress.append(report)
        self._tell(record, task_id)

    def _tell(self, record: Record, task_id: bytes) -> None:
        self.events.append((EVENT_TOPICS.index(record.topic), record.partition, record.offset, task_id))


def _fold(row: TaskView | None, record: Record, message: Task | Event) -> Folded:
    companions = Companions(_text(record, DIGEST_HEADER), _text(record, "redrive-of"))
    if isinstance(message, Event):
        return fold_event(row, message, companions)
    name = directory = ""
    if row is None or not row.name:
        try:
            submission = message.submission()
            name, directory = submission.name, submission.directory
        except (Invalid, Undecodable):
            pass  # the platform takes it in all the same, and tells in a dead letter what is wrong
    return fold_submission(row, message, name, directory, companions)


def _text(record: Record, header: str) -> str:
    try:
        return record.text(header, "")
    except Undecodable:
        return ""  # a producer's own header of that name

"""A batch of records folded into the stored tasks: what the projector commits in one transaction.

Undecodable records are counted and skipped. Two different terminal events of one task are counted and logged.
"""

import logging
from collections import Counter
from collections.abc import Sequence

from headrace.contract.cluster import Redriven
from headrace.contract.lifecycle import Event
from headrace.contract.progress import Progress
from headrace.contract.records import Record
from headrace.contract.task import Task
from headrace.errors import Invalid, Undecodable
from headrace.process.throttled_log import log_throttled

from ..metrics import Metrics
from .event_topics import EVENT_TOPICS
from .projection import Folded, TaskView, fold_event, fold_redrive, fold_submission, id_bytes, id_text
from .store import NewEvent, StatusStore, StoredProgress

log = logging.getLogger(__name__)

DIGEST_HEADER = "idempotency-digest"  # of a body that came with an Idempotency-Key; every record of the task has it


class EventBatch:
    """The tasks, events and progress reports that a batch of records changes."""

    def __init__(self, store: StatusStore, metrics: Metrics) -> None:
        self._store, self._metrics = store, metrics
        self.tasks: dict[bytes, TaskView] = {}
        self.events: list[NewEvent] = []
        self.progress: list[StoredProgress] = []

    @property
    def changed_ids(self) -> set[bytes]:
        return set(self.tasks) | {p.id for p in self.progress}

    def fold_records(self, records: Sequence[Record]) -> None:
        for topic, count in Counter(r.topic for r in records).items():
            self._metrics.folded.labels(topic).inc(count)
        decoded = [(r, m) for r in records if (m := self._decode(r)) is not None]
        ids = {id_bytes(m.id) for _, m in decoded if not isinstance(m, Progress)}
        self.tasks = self._store.get_tasks(list(ids))
        forgotten = self._store.forgotten(ids - self.tasks.keys())
        for record, message in decoded:
            if isinstance(message, Progress):
                self._add_progress(record, message)
                continue
            if (task_id := id_bytes(message.id)) in forgotten:
                continue
            task = self.tasks.get(task_id)
            folded = _fold(task, record, message)
            self.tasks[folded.task.id] = folded.task
            if folded.is_event:
                self._add_event(record, folded.task.id)
            if folded.conflict:
                self._metrics.conflicts.inc()
                log.error("task %s has two terminal events: %s", id_text(folded.task.id), folded.conflict)

    def _decode(self, record: Record) -> "Task | Event | Redriven | Progress | None":
        try:
            if record.topic in ("tasks.normal", "tasks.high"):
                return Task.from_record(record)
            if record.topic == "tasks.redriven":
                return Redriven.decode(record)
            return Progress.decode(record) if record.topic == "progress" else Event.decode(record)
        except Undecodable as e:
            self._metrics.undecodable.labels(record.topic).inc()
            log_throttled(f"undecodable {record.topic}", "skipped %s: %s", record.source, e)
            return None

    def _add_progress(self, record: Record, progress: Progress) -> None:
        task_id = id_bytes(progress.id)
        report = StoredProgress(
            id=task_id,
            offset=record.offset,
            partition=record.partition,
            attempt=progress.attempt,
            fraction=progress.fraction,
            message=progress.message,
            at_ms=record.timestamp_ms,
        )
        self.progress.append(report)
        self._add_event(record, task_id)

    def _add_event(self, record: Record, task_id: bytes) -> None:
        self.events.append((EVENT_TOPICS.index(record.topic), record.partition, record.offset, task_id))


def _fold(task: TaskView | None, record: Record, message: Task | Event | Redriven) -> Folded:
    if isinstance(message, Redriven):
        return fold_redrive(task, message)
    digest = _text(record, DIGEST_HEADER)
    if isinstance(message, Event):
        return fold_event(task, message, digest)
    name = directory = ""
    if task is None or not task.name:
        try:
            submission = message.submission()
            name, directory = submission.name, submission.directory
        except (Invalid, Undecodable):
            pass  # the task still exists: it ends in a dead letter that says what is wrong
    return fold_submission(task, message, name, directory, digest)


def _text(record: Record, header: str) -> str:
    try:
        return record.text(header, "")
    except Undecodable:
        return ""  # a native producer used the header name for something else

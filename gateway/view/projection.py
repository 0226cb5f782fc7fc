"""What one record changes in what the gateway knows of its task: pure, so that any order of reading can be tried.

The status view calls `fold_…` with the row it has (or None) and keeps the row that comes back. Rules (docs: protocol):
terminal > running > queued in any order of reading; received, started and terminal are announced by the first record
of an id; each event stands in for predecessors that have not been read yet. Nothing here can fail.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from operator import attrgetter

from headrace.contract.ledger import Failure
from headrace.contract.lifecycle import Event
from headrace.contract.states import Reason, Status
from headrace.contract.task import Task

_OFFSET_BITS = 48


@dataclass(slots=True)
class AttemptView:
    """One attempt as readers see it; times are milliseconds since the epoch, 0 = not known."""

    attempt: int
    node: str = ""
    started_ms: int = 0
    ended_ms: int = 0
    cause: str = ""
    detail: str = ""


@dataclass(slots=True)
class TaskView:
    """All that is known of one task. A `…_place` is where the event that counts lies in its topic, -1 = not read."""

    id: bytes  # the UUID's 16 bytes
    name: str = ""
    directory: str = ""
    via: str = ""
    status: Status = Status.QUEUED
    submitted_ms: int = 0  # when the broker took the submission in
    started_ms: int = 0
    ended_ms: int = 0
    received_place: int = -1
    started_place: int = -1
    ended_place: int = -1
    attempts: list[AttemptView] = field(default_factory=list)
    file: str = ""
    size: int = 0
    sha256: str = ""
    content_type: str = ""
    queued_ms: int | None = None
    duration_ms: int | None = None
    outcome_offset: int = -1
    reason: str = ""
    error: str = ""
    source: str = ""  # topic/partition/offset of the submission
    digest: str = ""  # of the body, where an Idempotency-Key came with it
    redrive_of: str = ""

    @property
    def announced(self) -> bool:
        """Whether `received` may be told: its own record or a successor's has been read."""
        return self.received_place >= 0 or self.started_place >= 0 or self.ended_place >= 0

    @property
    def has_started(self) -> bool:
        """Whether an attempt is known to have begun, by its own record or by what the terminal event says."""
        return self.started_place >= 0 or self.started_ms > 0


COLUMNS = tuple(f for f in TaskView.__dataclass_fields__ if f != "attempts")
values_of = attrgetter(*COLUMNS)


def place_of(partition: int, offset: int) -> int:
    """Partition and offset as one number that SQLite keeps."""
    return partition << _OFFSET_BITS | offset


def partition_and_offset(place: int) -> tuple[int, int]:
    return place >> _OFFSET_BITS, place & ((1 << _OFFSET_BITS) - 1)


@dataclass(frozen=True, slots=True)
class Folded:
    """The row after a record, and what the record was: worth telling (`news`), or at odds with what is known."""

    row: TaskView
    news: bool = False
    conflict: str = ""


@dataclass(frozen=True, slots=True)
class Companions:
    """Headers that travel from the submission to every record of its task."""

    digest: str = ""
    redrive_of: str = ""


def fold_submission(row: TaskView | None, task: Task, name: str, directory: str, companions: Companions) -> Folded:
    """A record of tasks.normal or tasks.high. The first of an id says what the task is; replays add to its ledger."""
    row = row or TaskView(id_bytes(task.id))
    _stand_in(row, name, directory, task.submitted_ms, str(task.source), companions)
    _merge_ledger(row, task.ledger)
    return Folded(row)


def fold_event(row: TaskView | None, event: Event, companions: Companions) -> Folded:
    """A record of one of the lifecycle topics or of tasks.dead."""
    row = row or TaskView(id_bytes(event.id))
    _stand_in(row, event.name, event.directory, event.submitted_ms, event.source, companions)
    return _FOLDS[event.topic](row, event, place_of(event.partition, event.offset))


def _received(row: TaskView, event: Event, place: int) -> Folded:
    if row.received_place >= 0:
        return Folded(row)
    row.received_place, row.via = place, event.via
    return Folded(row, news=True)


def _started(row: TaskView, event: Event, place: int) -> Folded:
    known = _attempt(row, max(1, event.attempt))
    known.node, known.started_ms = known.node or event.node, known.started_ms or event.at_ms
    if not row.status.terminal:
        row.status = Status.RUNNING
    if row.started_place >= 0:
        return Folded(row)
    row.started_place, row.started_ms = place, event.at_ms
    return Folded(row, news=True)


def _ended(row: TaskView, event: Event, place: int) -> Folded:
    status = _terminal_status(event)
    if row.ended_place >= 0:
        said = "" if row.status is status else f"{row.status} and then {status}"
        return Folded(row, conflict=said)
    row.status, row.ended_place, row.ended_ms, row.outcome_offset = status, place, event.at_ms, event.outcome_offset
    row.file, row.size, row.sha256, row.content_type = event.file, event.size, event.sha256, event.content_type
    row.reason, row.error = event.reason or "", event.error
    row.queued_ms, row.duration_ms = event.queued_ms, event.duration_ms
    _merge_ledger(row, event.ledger)
    if event.duration_ms is not None:
        row.started_ms = row.started_ms or row.submitted_ms + (event.queued_ms or 0)
    row.started_ms = row.started_ms or min((f.started_ms for f in event.ledger if f.started_ms), default=0)
    if status is Status.COMPLETED:
        last = _attempt(row, max(1, event.attempt))
        last.node, last.ended_ms = last.node or event.node, event.at_ms
    return Folded(row, news=True)


_FOLDS = {
    "lifecycle.received": _received,
    "lifecycle.started": _started,
    "lifecycle.completed": _ended,
    "tasks.dead": _ended,
}


def _terminal_status(event: Event) -> Status:
    if event.topic == "lifecycle.completed":
        return Status.COMPLETED
    return Status.CANCELLED if event.reason is Reason.CANCELLED else Status.FAILED


def _stand_in(row: TaskView, name: str, directory: str, submitted_ms: int, source: str, companions: Companions) -> None:
    """Whatever record of a task is read first tells what the task is, as far as it knows; the first word stands."""
    row.name, row.directory = row.name or name, row.directory or directory
    row.submitted_ms = row.submitted_ms or submitted_ms
    if not row.source or row.source == source:  # a repeat of the id, with another body, has no say
        row.digest, row.redrive_of = row.digest or companions.digest, row.redrive_of or companions.redrive_of
    row.source = row.source or source


def _attempt(row: TaskView, number: int) -> AttemptView:
    for known in row.attempts:
        if known.attempt == number:
            return known
    row.attempts.append(AttemptView(number))
    row.attempts.sort(key=attrgetter("attempt"))
    return next(a for a in row.attempts if a.attempt == number)


def _merge_ledger(row: TaskView, ledger: Sequence[Failure]) -> None:
    for failure in ledger:
        known = _attempt(row, failure.attempt)
        merged = replace(
            known,
            node=failure.node or known.node,
            started_ms=failure.started_ms or known.started_ms,
            ended_ms=failure.ended_ms,
            cause=str(failure.cause),
            detail=failure.detail,
        )
        row.attempts[row.attempts.index(known)] = merged


def id_bytes(task_id: str) -> bytes:
    """The 16 bytes of a canonical UUID."""
    return bytes.fromhex(task_id.replace("-", ""))


def id_text(raw: bytes) -> str:
    h = raw.hex()
    return f"{h[:8]}-{h[8:12]}-{h[12:16]}-{h[16:20]}-{h[20:]}"

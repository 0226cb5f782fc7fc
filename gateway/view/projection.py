"""What one record changes in the gateway's view of its task. Pure, so that tests can try any order of reading.

`EventBatch` calls `fold_…` with the stored task (or None) and stores the one that comes back. The rules, from the
protocol (docs/protocol.md): terminal > running > queued in any order of reading; the first record of an id on a topic
makes the event; a later event also stands for earlier ones whose records have not been read yet. Nothing here fails.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from operator import attrgetter

from headrace.contract.cluster import Redriven
from headrace.contract.ledger import Failure
from headrace.contract.lifecycle import Event
from headrace.contract.states import Reason, Status
from headrace.contract.task import Task

_OFFSET_BITS = 48


@dataclass(slots=True)
class AttemptView:
    """One attempt as GET /tasks/{id} shows it; times are milliseconds since the epoch, 0 = unknown."""

    attempt: int
    node: str = ""
    started_ms: int = 0
    ended_ms: int = 0
    cause: str = ""
    detail: str = ""


@dataclass(slots=True)
class TaskView:
    """All that the gateway knows of one task; the fields are the columns of the status view.

    A `…_place` is the partition and offset of the event's first record (see `place_of`), -1 = not read yet. Times are
    milliseconds since the epoch, 0 = unknown.
    """

    id: bytes  # the UUID's 16 bytes
    name: str = ""
    directory: str = ""
    via: str = ""
    status: Status = Status.QUEUED
    submitted_ms: int = 0  # when the broker appended the submission
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
    digest: str = ""  # of the body, when it came with an Idempotency-Key
    redrive_of: str = ""

    @property
    def announced(self) -> bool:
        """Whether the event `received` may be sent: its own record or a later one has been read."""
        return self.received_place >= 0 or self.started_place >= 0 or self.ended_place >= 0

    @property
    def has_started(self) -> bool:
        """Whether an attempt is known to have begun, from its own record or from the terminal event."""
        return self.started_place >= 0 or self.started_ms > 0


COLUMNS = tuple(f for f in TaskView.__dataclass_fields__ if f != "attempts")
values_of = attrgetter(*COLUMNS)


def place_of(partition: int, offset: int) -> int:
    """Partition and offset as one integer that SQLite can store."""
    return partition << _OFFSET_BITS | offset


def partition_and_offset(place: int) -> tuple[int, int]:
    """The inverse of `place_of`."""
    return place >> _OFFSET_BITS, place & ((1 << _OFFSET_BITS) - 1)


@dataclass(frozen=True, slots=True)
class Folded:
    """The task after a record; whether the record is an event for listeners; which terminal states contradict."""

    task: TaskView
    is_event: bool = False
    conflict: str = ""


def fold_submission(task: TaskView | None, submitted: Task, name: str, directory: str, digest: str) -> Folded:
    """Folds a record of tasks.normal or tasks.high. The first of an id defines the task; replays add to its ledger.

    `digest` is that of an Idempotency-Key's body, which every record of the task has from its submission.
    """
    task = task or TaskView(id_bytes(submitted.id))
    _fill_unknown(task, name, directory, submitted.submitted_ms, str(submitted.source), digest)
    _merge_ledger(task, submitted.ledger)
    return Folded(task)


def fold_redrive(task: TaskView | None, note: Redriven) -> Folded:
    """Folds a gateway's note that this task was made of a dead one."""
    task = task or TaskView(id_bytes(note.id))
    task.redrive_of = task.redrive_of or note.redrive_of
    return Folded(task)


def fold_event(task: TaskView | None, event: Event, digest: str) -> Folded:
    """Folds a record of a lifecycle topic or of tasks.dead."""
    task = task or TaskView(id_bytes(event.id))
    _fill_unknown(task, event.name, event.directory, event.submitted_ms, event.source, digest)
    return _FOLDS[event.topic](task, event, place_of(event.partition, event.offset))


def _received(task: TaskView, event: Event, place: int) -> Folded:
    if task.received_place >= 0:
        return Folded(task)
    task.received_place, task.via = place, event.via
    return Folded(task, is_event=True)


def _started(task: TaskView, event: Event, place: int) -> Folded:
    known = _attempt(task, max(1, event.attempt))
    known.node, known.started_ms = known.node or event.node, known.started_ms or event.at_ms
    if not task.status.terminal:
        task.status = Status.RUNNING
    if task.started_place >= 0:
        return Folded(task)
    task.started_place, task.started_ms = place, event.at_ms
    return Folded(task, is_event=True)


def _ended(task: TaskView, event: Event, place: int) -> Folded:
    status = _terminal_status(event)
    if task.ended_place >= 0:
        conflict = "" if task.status is status else f"{task.status} and then {status}"
        return Folded(task, conflict=conflict)
    task.status, task.ended_place, task.ended_ms, task.outcome_offset = status, place, event.at_ms, event.outcome_offset
    # Of an id that was submitted with two bodies, the one that decided is the task, whichever was read first.
    task.name, task.directory = event.name or task.name, event.directory or task.directory
    task.file, task.size, task.sha256, task.content_type = event.file, event.size, event.sha256, event.content_type
    task.reason, task.error = event.reason or "", event.error
    task.queued_ms, task.duration_ms = event.queued_ms, event.duration_ms
    _merge_ledger(task, event.ledger)
    if event.duration_ms is not None:
        task.started_ms = task.started_ms or task.submitted_ms + (event.queued_ms or 0)
    task.started_ms = task.started_ms or min((f.started_ms for f in event.ledger if f.started_ms), default=0)
    if status is Status.COMPLETED:
        last = _attempt(task, max(1, event.attempt))
        last.node, last.ended_ms = last.node or event.node, event.at_ms
    return Folded(task, is_event=True)


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


def _fill_unknown(task: TaskView, name: str, directory: str, submitted_ms: int, source: str, digest: str) -> None:
    """Fills what is still unknown of the task from any of its records; what is known already stays."""
    task.name, task.directory = task.name or name, task.directory or directory
    task.submitted_ms = task.submitted_ms or submitted_ms
    if not task.source or task.source == source:  # a repeat of the id with another body changes nothing
        task.digest = task.digest or digest
    task.source = task.source or source


def _attempt(task: TaskView, number: int) -> AttemptView:
    for known in task.attempts:
        if known.attempt == number:
            return known
    task.attempts.append(AttemptView(number))
    task.attempts.sort(key=attrgetter("attempt"))
    return next(a for a in task.attempts if a.attempt == number)


def _merge_ledger(task: TaskView, ledger: Sequence[Failure]) -> None:
    for failure in ledger:
        known = _attempt(task, failure.attempt)
        merged = replace(
            known,
            node=failure.node or known.node,
            started_ms=failure.started_ms or known.started_ms,
            ended_ms=failure.ended_ms,
            cause=str(failure.cause),
            detail=failure.detail,
        )
        task.attempts[task.attempts.index(known)] = merged


def id_bytes(task_id: str) -> bytes:
    """The 16 bytes of a canonical UUID."""
    return bytes.fromhex(task_id.replace("-", ""))


def id_text(raw: bytes) -> str:
    """The canonical UUID of 16 bytes."""
    h = raw.hex()
    return f"{h[:8]}-{h[8:12]}-{h[12:16]}-{h[16:20]}-{h[20:]}"

"""The history of a task, one line a record: what the record says, and what followed from it.

Pure: `search` reads the records. Applies two rules of the protocol (docs/protocol.md), which need nothing but the
records: the lowest offset of an (id, attempt) counts, and the first outcome ends the task. Never fails on a record.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from headrace.contract.cluster import Cancel, Redriven
from headrace.contract.journal import Claim, EpochMark, Tombstone, decode_journal
from headrace.contract.lifecycle import Event
from headrace.contract.outcome import Outcome
from headrace.contract.progress import Progress
from headrace.contract.records import Record
from headrace.contract.task import Task
from headrace.errors import Invalid, Undecodable

# The order in which a task's records are written; it sorts records of the same millisecond.
_ORDER = (
    "tasks.control",
    "tasks.redriven",
    "tasks.normal",
    "tasks.high",
    "lifecycle.received",
    "tasks.running",
    "lifecycle.started",
    "progress",
    "results",
    "lifecycle.completed",
    "tasks.dead",
)
KEYED_TOPICS = _ORDER

_WHY = {
    "done": "its attempt has ended",
    "retried": "its next attempt has been sent",
    "void": "it never counted, because its offset was not committed in its generation",
    "reaped": "its boot died",
}


@dataclass(frozen=True, slots=True)
class Line:
    """One record: its time (ms since the epoch), its source, and a sentence about it."""

    at_ms: int
    source: str
    text: str


@dataclass(slots=True)
class _Narrator:
    """Describes records one after another. Keeps what the description of later records depends on."""

    task_id: str
    attempts: dict[tuple[int, str, int], str] = field(default_factory=dict)  # attempt, topic, partition -> source
    outcome: str = ""  # source of the outcome that decided
    ended: str = ""  # source of the terminal event

    def describe(self, record: Record) -> str:
        try:
            if record.topic in ("tasks.normal", "tasks.high"):
                return self._submission(record)
            if record.topic == "tasks.running":
                return self._claim(decode_journal(record))
            if record.topic == "results":
                return self._outcome(record)
            if record.topic in ("tasks.control", "tasks.redriven"):
                return _command(record)
            if record.topic == "progress":
                report = Progress.decode(record)
                return f"attempt {report.attempt} reports {report.fraction:.0%} {report.message}".rstrip()
            return self._event(record)
        except Undecodable as e:
            return f"cannot be read, so every reader skips it: {e.detail}"

    def _submission(self, record: Record) -> str:
        task = Task.from_record(record)
        first = self.attempts.setdefault((task.attempt, record.topic, record.partition), str(record.source))
        if first != str(record.source):
            return f"attempt {task.attempt} once more: dropped, because {first} is earlier (rule D in docs/protocol.md)"
        if task.attempt > 1:
            last = task.ledger[-1] if task.ledger else None
            because = f" after {last.cause} on {last.node}: {_last_line(last.detail)}" if last else ""
            return f"attempt {task.attempt} waits for a slot{because}"
        try:
            submission = task.submission()
        except (Undecodable, Invalid) as e:
            return f"submitted, but not valid: {e.detail}"
        copies = sum(attempt == 1 for attempt, *_ in self.attempts) > 1
        runs = "unless the queue has grown since, it runs too, and the first outcome decides"
        again = f" (once more, in another partition: {runs})" if copies else ""
        return f"submitted: {submission.name}, results to {submission.directory}{again}"

    def _claim(self, found: Claim | Tombstone | EpochMark) -> str:
        if isinstance(found, EpochMark):
            return f"boot {found.boot} begins to claim from this partition"
        if isinstance(found, Tombstone):
            return f"claim of {found.key.source} by boot {found.key.boot} is over: {_WHY.get(found.why, found.why)}"
        others = f", together with {len(found.tasks) - 1} other tasks" if len(found.tasks) > 1 else ""
        attempt = next((t.attempt for t in found.tasks if t.id == self.task_id), found.tasks[0].attempt)
        where = f"by boot {found.by}" + (f" for boot {found.for_}" if found.for_ != found.by else "")
        epoch = "" if found.epoch is None else f", epoch {found.epoch}"
        group = f"phase {found.phase}, generation {found.generation}{epoch}"
        aside = "; it begins there once that node has room" if found.for_ != found.by and found.phase != "go" else ""
        return f"attempt {attempt} claimed on {found.node} {where} ({group}){others}{aside}"

    def _outcome(self, record: Record) -> str:
        outcome = Outcome.decode(record)
        what = f"attempt {outcome.attempt} on {outcome.node or 'no node'}: {outcome.outcome}"
        if outcome.reason:
            what += f" ({outcome.reason}{': ' + _last_line(outcome.error) if outcome.error else ''})"
        if outcome.chunks > 1:
            what += f", chunk {outcome.chunk + 1} of {outcome.chunks}"
        if self.outcome:
            return f"{what}; passed over, because {self.outcome} has decided"
        if outcome.chunk == outcome.chunks - 1:
            self.outcome = str(record.source)
            what += "; this decides, as the first outcome"
        return what

    def _event(self, record: Record) -> str:
        event = Event.decode(record)
        if record.topic == "lifecycle.received":
            return f"received over {event.via or 'kafka'} as {event.source}"
        if record.topic == "lifecycle.started":
            return f"attempt {event.attempt} begins on {event.node}"
        again = f"; a repeat of {self.ended}" if self.ended else ""
        self.ended = self.ended or str(record.source)
        if record.topic == "lifecycle.completed":
            return f"completed: {event.size} bytes in {event.file}, SHA-256 {event.sha256}{again}"
        return f"ended without a result: {event.reason}, {_last_line(event.error)}{again}"


def timeline_of(records: Iterable[Record], task_id: str) -> list[Line]:
    """The records as lines, in the order of the broker's times; within a millisecond in their usual order."""
    narrator = _Narrator(task_id)
    ordered = sorted(records, key=lambda r: (r.timestamp_ms, _ORDER.index(r.topic), r.partition, r.offset))
    return [Line(r.timestamp_ms, str(r.source), narrator.describe(r)) for r in ordered]


def _last_line(text: str) -> str:
    return text.strip().rsplit("\n", 1)[-1][:200]


def _command(record: Record) -> str:
    if (cancel := Cancel.decode(record)) is not None:
        return f"cancel requested{_by(cancel.by)}"
    redriven = Redriven.decode(record)
    return "a command of a later version" if redriven is None else f"submitted again as task {redriven.id}"


def _by(holder: str) -> str:
    return f" by {holder}" if holder else ""

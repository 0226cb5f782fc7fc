"""Whether a pulled record may be claimed, and if not, why: pure decisions, made before the claim.

The intake asks for each record at the head of its partition. A refused task gets its outcome at once, without a slot,
and does not hold up the records behind it.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

from headrace.contract.cluster import KindInfo
from headrace.contract.payload_check import PayloadCheck
from headrace.contract.printable import printable
from headrace.contract.records import Outgoing, Record
from headrace.contract.states import Reason
from headrace.contract.submission import Submission
from headrace.contract.task import Task
from headrace.errors import Invalid, Undecodable

from ..completion.outcomes import outcome_without_result

_MAX_ERROR_CHARACTERS = 1300  # of a refusal: less than what an outcome keeps, which cuts the beginning


class KindCatalog(Protocol):
    """What a node knows of task kinds: `agents.membership.registry`."""

    @property
    def own(self) -> Mapping[str, PayloadCheck]:
        """The kinds that this node runs."""

    def announced(self) -> Collection[str]:
        """Names of the kinds that any live node runs, this one included."""

    def is_complete(self) -> bool:
        """Whether everything that other nodes announced before this node came has been read."""


@dataclass(frozen=True, slots=True)
class Admitted:
    """May be claimed, unless it is cancelled or expires before."""

    submission: Submission
    kind: KindInfo


@dataclass(frozen=True, slots=True)
class Refusal:
    """Never starts. `name` and `directory` are the submission's, empty when that is invalid."""

    reason: Reason
    error: str
    name: str = ""
    directory: str = ""


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """Other nodes announce the kind and this one does not: to be claimed for one of them, as `Admitted` says."""

    submission: Submission


Decision = Admitted | Refusal | Elsewhere


def decode_task(record: Record) -> tuple[Task, str | None]:
    """The record's task and None; with forged headers, the task without them and what is wrong with them."""
    try:
        return Task.from_record(record), None
    except Undecodable as e:
        return Task.without_headers(record), e.detail


def refusal_outcome(task: Task, refusal: Refusal, *, boot: str, node: str) -> Outgoing:
    """The outcome of a refused task; `boot` and `node` are those that judged it."""
    return outcome_without_result(
        task,
        boot=boot,
        node=node,
        reason=refusal.reason,
        error=refusal.error,
        name=refusal.name,
        directory=refusal.directory,
    )


class Admission:
    """`is_cancelled` takes a task id; `now` is the clock for `expires_at`."""

    def __init__(
        self,
        kinds: KindCatalog,
        is_cancelled: Callable[[str], bool],
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._kinds, self._is_cancelled, self._now = kinds, is_cancelled, now

    def judge(self, task: Task, header_error: str | None = None) -> Decision:
        """Judges what does not change while the task waits. `header_error`: what `decode_task` found wrong."""
        if header_error is not None:
            return Refusal(Reason.INVALID, header_error)
        try:
            submission = task.submission()
        except Undecodable as e:
            return Refusal(Reason.INVALID, printable(e.detail, _MAX_ERROR_CHARACTERS))
        except Invalid as e:
            error = f"{e.pointer}: {e.detail}" if e.pointer else e.detail
            return Refusal(Reason.INVALID, printable(error, _MAX_ERROR_CHARACTERS))
        check = self._kinds.own.get(submission.name)
        if check is None:
            return self._judge_foreign_kind(submission)
        if problems := check.problems(submission.payload):
            error = printable("; ".join(f"{p.pointer}: {p.detail}" for p in problems[:10]), _MAX_ERROR_CHARACTERS)
            return Refusal(Reason.INVALID, error, submission.name, submission.directory)
        return Admitted(submission, check.kind)

    def recheck(self, task: Task, decision: Admitted | Elsewhere) -> Refusal | None:
        """Right before the claim, and while the task waits for a node: checks what may have changed since `judge`."""
        submission = decision.submission
        if self._is_cancelled(task.id):
            return Refusal(Reason.CANCELLED, "cancelled while it was queued", submission.name, submission.directory)
        if submission.expires_at is not None and submission.expires_at <= self._now():
            return Refusal(
                Reason.EXPIRED,
                f"it was not to be started after {submission.expires_at.isoformat()}",
                submission.name,
                submission.directory,
            )
        return None

    def _judge_foreign_kind(self, submission: Submission) -> Decision:
        announced = self._kinds.announced()
        if submission.name in announced or not self._kinds.is_complete():
            return Elsewhere(submission)
        known = ", ".join(sorted(announced)) or "none"
        error = f"no node announces the kind {submission.name!r}; there are {known}"
        return Refusal(Reason.UNKNOWN_KIND, error, submission.name, submission.directory)

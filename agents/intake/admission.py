"""Whether a pulled record may be claimed, and if not, why: pure decisions, made before the claim.

Asked by the intake for each record that reaches the head of its partition. What is refused gets an outcome at once,
without a slot; it never stops or slows what comes after it.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

from headrace.contract.cluster import KindInfo
from headrace.contract.payload_check import PayloadCheck
from headrace.contract.records import Record
from headrace.contract.states import Reason
from headrace.contract.submission import Submission
from headrace.contract.task import Task
from headrace.errors import Invalid, Undecodable


class KindCatalog(Protocol):
    """What a node knows of task kinds: `agents.membership.registry`."""

    @property
    def own(self) -> Mapping[str, PayloadCheck]:
        """Those that this node runs."""

    def announced(self) -> Collection[str]:
        """Names that any live node announces, this one included."""

    def is_complete(self) -> bool:
        """Whether all has been read that others announced before this node came."""


@dataclass(frozen=True, slots=True)
class Admitted:
    """May be claimed, unless it is cancelled or has expired by then."""

    submission: Submission
    kind: KindInfo


@dataclass(frozen=True, slots=True)
class Refusal:
    """Never starts: the outcome says so."""

    reason: Reason
    error: str
    name: str = ""
    directory: str = ""


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """A kind that other nodes announce and this one does not: left to them."""

    submission: Submission


Decision = Admitted | Refusal | Elsewhere


def task_of(record: Record) -> tuple[Task, str | None]:
    """The record's task, and what is wrong with its headers: those of a forged record are not believed."""
    try:
        return Task.from_record(record), None
    except Undecodable as e:
        return Task.without_headers(record), e.detail


class Admission:
    """`cancelled` tells whether an id's cancel has been read; `now` is the clock for `expires_at`."""

    def __init__(
        self,
        kinds: KindCatalog,
        cancelled: Callable[[str], bool],
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._kinds, self._cancelled, self._now = kinds, cancelled, now

    def judge(self, task: Task, broken_headers: str | None = None) -> Decision:
        """What is to become of the task, apart from what may change while it waits."""
        if broken_headers is not None:
            return Refusal(Reason.INVALID, broken_headers)
        try:
            submission = task.submission()
        except Undecodable as e:
            return Refusal(Reason.INVALID, e.detail)
        except Invalid as e:
            return Refusal(Reason.INVALID, f"{e.pointer}: {e.detail}" if e.pointer else e.detail)
        check = self._kinds.own.get(submission.name)
        if check is None:
            return self._foreign(submission)
        if problems := check.problems(submission.payload):
            words = "; ".join(f"{p.pointer}: {p.detail}" for p in problems[:10])
            return Refusal(Reason.INVALID, words, submission.name, submission.directory)
        return Admitted(submission, check.kind)

    def at_last(self, task: Task, verdict: Admitted) -> Refusal | None:
        """Asked right before the claim: what may have changed since `judge`."""
        submission = verdict.submission
        if self._cancelled(task.id):
            return Refusal(Reason.CANCELLED, "cancelled while it was queued", submission.name, submission.directory)
        if submission.expires_at is not None and submission.expires_at <= self._now():
            return Refusal(
                Reason.EXPIRED,
                f"it was not to be started after {submission.expires_at.isoformat()}",
                submission.name,
                submission.directory,
            )
        return None

    def _foreign(self, submission: Submission) -> Decision:
        announced = self._kinds.announced()
        if submission.name in announced or not self._kinds.is_complete():
            return Elsewhere(submission)
        known = ", ".join(sorted(announced)) or "none"
        error = f"no node announces the kind {submission.name!r}; there are {known}"
        return Refusal(Reason.UNKNOWN_KIND, error, submission.name, submission.directory)

"""Outcomes as the intake, the finisher and the reaper send them. Pure."""

from collections.abc import Sequence

from headrace.contract.bounds import MAX_TEXT_BYTES
from headrace.contract.ledger import Failure
from headrace.contract.outcome import Outcome, OutcomeStatus
from headrace.contract.printable import printable
from headrace.contract.records import Outgoing, shrink_to_fit
from headrace.contract.states import Reason
from headrace.contract.task import Task

from ..execution.job import AttemptEnd, Job


def outcome_without_result(
    task: Task,
    *,
    boot: str,
    node: str,
    reason: Reason,
    error: str,
    name: str = "",
    directory: str = "",
    ledger: Sequence[Failure] | None = None,
    started_ms: int = 0,
    ended_ms: int = 0,
) -> Outgoing:
    """The outcome of a task that failed or was cancelled; if it is the task's first, it becomes a dead letter.

    `boot` and `node` ran or judged the task. `name` and `directory` are its submission's, empty when that is invalid.
    `ledger`: all failed attempts, this one included; by default the task's own, for a task that was not attempted.
    Of `error` the last `MAX_TEXT_BYTES` bytes are kept.
    """
    status: OutcomeStatus = "cancelled" if reason is Reason.CANCELLED else "failed"
    outcome = Outcome(
        id=task.id,
        outcome=status,
        value=task.raw,
        attempt=task.attempt,
        boot=boot,
        node=node,
        source=task.source,
        submitted_ms=task.submitted_ms,
        name=name,
        directory=directory,
        reason=reason,
        error=printable(error).encode()[-MAX_TEXT_BYTES:].decode(errors="ignore"),
        started_ms=started_ms,
        ended_ms=ended_ms,
        ledger=tuple(task.ledger if ledger is None else ledger),
        foreign=task.foreign,
    )
    return shrink_to_fit(outcome.encode())


def completed_outcome(job: Job, end: AttemptEnd, node: str) -> Outcome:
    """The outcome of a completed attempt, with its result unless that is in a file."""
    task = job.task
    return Outcome(
        id=task.id,
        outcome="completed",
        value=end.value or b"",
        attempt=task.attempt,
        boot=job.claim.for_,
        node=node,
        source=task.source,
        submitted_ms=task.submitted_ms,
        name=job.submission.name,
        directory=job.submission.directory,
        content_type=end.content_type,
        suffix=end.suffix,
        started_ms=end.started_ms,
        ended_ms=end.ended_ms,
        ledger=task.ledger,
        foreign=task.foreign,
    )

"""Outcomes without a result, as intake, finisher and reaper send them. Pure."""

from collections.abc import Sequence

from headrace.contract.ledger import Failure
from headrace.contract.outcome import Outcome, OutcomeStatus
from headrace.contract.records import Outgoing, fitting
from headrace.contract.states import Reason
from headrace.contract.task import Task

MAX_ERROR_BYTES = 4096


def without_result(
    task: Task,
    boot: str,
    node: str,
    reason: Reason,
    error: str,
    *,
    name: str = "",
    directory: str = "",
    ledger: Sequence[Failure] | None = None,
    started_ms: int = 0,
    ended_ms: int = 0,
) -> Outgoing:
    """The task has failed, or was cancelled; the storekeeper makes a dead letter of it, if it is the first outcome.

    `ledger`: all failed attempts, this one included; the task's own when there was no attempt.
    """
    verdict: OutcomeStatus = "cancelled" if reason is Reason.CANCELLED else "failed"
    error = error.encode()[-MAX_ERROR_BYTES:].decode(errors="ignore")
    outcome = Outcome(
        task.id,
        verdict,
        task.raw,
        attempt=task.attempt,
        boot=boot,
        node=node,
        source=task.source,
        submitted_ms=task.submitted_ms,
        name=name,
        directory=directory,
        reason=reason,
        error=error,
        started_ms=started_ms,
        ended_ms=ended_ms,
        ledger=tuple(task.ledger if ledger is None else ledger),
        foreign=task.foreign,
    )
    return fitting(outcome.encode())

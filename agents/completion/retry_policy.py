"""What follows a failed attempt: a retry, at once or later, or the task's end. Pure; used by finisher and reaper.

Errors (time limits among them) have a budget of `max_attempts`, and deaths of the process have another. Drains and
losses of a node use up neither, because the task is not to blame. A cap on all attempts together ends a task that takes
its node down each time.
"""

from dataclasses import dataclass

from headrace.contract.ledger import Failure
from headrace.contract.states import Cause, Reason
from headrace.contract.task import Task

TOTAL_ATTEMPTS = 50  # whatever the causes: more restarts than one task meets in a bad week

_ERRORS = frozenset({Cause.ERROR, Cause.TIMEOUT})
_DEATHS = frozenset({Cause.PROCESS_DEATH, Cause.OUT_OF_MEMORY})

_FIRST_WAIT_S, _LONGEST_WAIT_S = 1.0, 60.0


@dataclass(frozen=True, slots=True)
class Retry:
    """One more attempt, not before `wait_s` seconds from now."""

    failure: Failure
    wait_s: float = 0.0


@dataclass(frozen=True, slots=True)
class GiveUp:
    """No further attempt: the task has failed."""

    failure: Failure
    reason: Reason


def after_failure(
    task: Task, failure: Failure, max_attempts: int, *, invalid: bool = False, permanent: bool = False
) -> Retry | GiveUp:
    """What follows when this attempt of `task` ended by `failure`.

    `failure` is not yet in the task's ledger. `max_attempts` is each budget's size. `invalid`: the payload is at fault,
    `permanent`: what was returned cannot be stored. In neither case can a retry help.
    """
    if invalid:
        return GiveUp(failure, Reason.INVALID)
    if permanent:
        return GiveUp(failure, Reason.FAILED)
    if failure.cause in _ERRORS:
        charged, reason = _ERRORS, Reason.TIMEOUT if failure.cause is Cause.TIMEOUT else Reason.FAILED
    else:
        charged, reason = _DEATHS, Reason.CRASHED
    count = sum(f.cause in charged for f in (*task.ledger, failure))
    if failure.cause not in _ERRORS | _DEATHS:
        if task.attempt >= TOTAL_ATTEMPTS:
            return GiveUp(failure, Reason.CRASHED)
        # A node that reports its own loss is alive but cannot run the task, and would be given it again at once.
        losses = sum(f.cause is failure.cause is Cause.NODE_LOSS for f in (*task.ledger, failure))
        return Retry(failure, _wait_s(losses))
    if count >= max_attempts or task.attempt >= TOTAL_ATTEMPTS:
        return GiveUp(failure, reason)
    return Retry(failure, _wait_s(count))


def _wait_s(failures: int) -> float:
    """Zero after the first failure, mostly bad luck; then doubling, so that a kind that always fails does not spin."""
    return 0.0 if failures < 2 else min(_LONGEST_WAIT_S, _FIRST_WAIT_S * 2.0 ** (failures - 2))

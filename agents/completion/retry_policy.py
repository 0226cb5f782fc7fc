"""What follows a failed attempt: the next one, after which wait, or the end. Pure; used by node and reaper alike.

Errors (time limits among them) and deaths of the process have a budget of `max_attempts` each. Drains and the loss of a
node are nobody's fault and free, within a cap on all attempts together, so that a task which takes its whole node down
with it ends some day too.
"""

from dataclasses import dataclass

from headrace.contract.ledger import Failure
from headrace.contract.states import Cause, Reason
from headrace.contract.task import Task

TOTAL_ATTEMPTS = 50  # of whatever cause: above any number of restarts that one task meets in a bad week

_ERRORS = frozenset({Cause.ERROR, Cause.TIMEOUT})
_DEATHS = frozenset({Cause.PROCESS_DEATH, Cause.OUT_OF_MEMORY})

_FIRST_WAIT_S, _LONGEST_WAIT_S = 1.0, 60.0


@dataclass(frozen=True, slots=True)
class Again:
    """The next attempt, not before `wait_s` from now."""

    failure: Failure
    wait_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Over:
    """No further attempt: the task has failed."""

    failure: Failure
    reason: Reason


def after(task: Task, failure: Failure, max_attempts: int, *, invalid: bool = False) -> Again | Over:
    """What follows when this attempt of `task` ended by `failure`. `invalid`: the payload is at fault, nothing else."""
    if invalid:
        return Over(failure, Reason.INVALID)
    if failure.cause in _ERRORS:
        charged, reason = _ERRORS, Reason.TIMEOUT if failure.cause is Cause.TIMEOUT else Reason.FAILED
    else:
        charged, reason = _DEATHS, Reason.CRASHED
    count = sum(f.cause in charged for f in (*task.ledger, failure))
    if failure.cause not in _ERRORS | _DEATHS:
        if task.attempt >= TOTAL_ATTEMPTS:
            return Over(failure, Reason.CRASHED)
        # A node that tells of its own loss lives, and cannot run the task: it would be given it again at once.
        losses = sum(f.cause is failure.cause is Cause.NODE_LOSS for f in (*task.ledger, failure))
        return Again(failure, _wait_s(losses))
    if count >= max_attempts or task.attempt >= TOTAL_ATTEMPTS:
        return Over(failure, reason)
    return Again(failure, _wait_s(count))


def _wait_s(failures: int) -> float:
    """None after the first, which most often was bad luck; then doubling, so that a broken kind does not spin."""
    return 0.0 if failures < 2 else min(_LONGEST_WAIT_S, _FIRST_WAIT_S * 2.0 ** (failures - 2))

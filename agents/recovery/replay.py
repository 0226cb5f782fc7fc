"""What the reaper sends for a task of a dead boot: its next attempt, or its outcome. Pure."""

import time
from dataclasses import replace

from headrace.contract.journal import Claim
from headrace.contract.ledger import Failure
from headrace.contract.records import Outgoing
from headrace.contract.states import Cause
from headrace.contract.task import Task
from headrace.errors import HeadraceError

from ..completion.outcomes import outcome_without_result
from ..completion.retry_policy import GiveUp, after_failure
from ..membership.identity import NodeIdentity

_UNCHARGED = 1_000_000  # the loss of a node has no budget of its own: only the cap on all attempts ends it


def replay_or_outcome(task: Task, claim: Claim, reaper: NodeIdentity) -> Outgoing:
    """The record that follows for a task of an effective `claim` whose boot is dead.

    `reaper` is the node that sends it, and the judge that an outcome names.
    """
    if task.ledger and task.ledger[-1].attempt == task.attempt:
        # The attempt had failed and its retry was waiting on the dead node: that failure is charged, not the loss.
        return replace(task, ledger=task.ledger[:-1]).next_attempt(task.ledger[-1])
    lost = Failure(
        task.attempt,
        Cause.NODE_LOSS,
        node=claim.node,
        started_ms=0,
        ended_ms=_now_ms(),
        detail=f"the node was lost (boot {claim.responsible})",
    )
    follows = after_failure(task, lost, _UNCHARGED)
    if not isinstance(follows, GiveUp):
        return task.next_attempt(lost)
    name = directory = ""
    try:
        submission = task.submission()
        name, directory = submission.name, submission.directory
    except HeadraceError:
        pass  # it was valid when it was claimed; the outcome is sent without its name
    return outcome_without_result(
        task,
        boot=reaper.boot,
        node=reaper.name,
        reason=follows.reason,
        error=f"{task.attempt} attempts, the last of them lost with its node",
        name=name,
        directory=directory,
        ledger=(*task.ledger, lost),
        ended_ms=lost.ended_ms,
    )


def _now_ms() -> int:
    return time.time_ns() // 1_000_000

"""What a reaper writes: the next attempt of a lost one, or its end, and the word that a boot is dead. Pure."""

import time
from dataclasses import replace

from agents.completion.outcomes import without_result
from agents.completion.retry_policy import Over, after
from agents.membership.identity import NodeIdentity
from headrace.contract.journal import Claim
from headrace.contract.ledger import Failure
from headrace.contract.records import Outgoing
from headrace.contract.states import Cause
from headrace.contract.task import Task
from headrace.errors import HeadraceError

_UNCHARGED = 1_000_000  # the loss of a node has no budget of its own: only the cap on all attempts ends it


def decide(task: Task, claim: Claim, node: NodeIdentity) -> Outgoing:
    """What follows for a task whose claim is effective and whose boot is dead."""
    if task.ledger and task.ledger[-1].attempt == task.attempt:
        # The attempt had failed and its replay was waiting: that failure is the one to charge.
        return replace(task, ledger=task.ledger[:-1]).next_attempt(task.ledger[-1])
    lost = Failure(
        task.attempt,
        Cause.NODE_LOSS,
        node=claim.node,
        started_ms=0,
        ended_ms=now_ms(),
        detail=f"the node was lost (boot {claim.responsible})",
    )
    follows = after(task, lost, _UNCHARGED)
    if not isinstance(follows, Over):
        return task.next_attempt(lost)
    name = directory = ""
    try:
        submission = task.submission()
        name, directory = submission.name, submission.directory
    except HeadraceError:
        pass  # it was valid when it was claimed; whatever has become of it, it ends here
    return without_result(
        task,
        node.boot,
        node.name,
        follows.reason,
        f"{task.attempt} attempts, the last of them lost with its node",
        name=name,
        directory=directory,
        ledger=(*task.ledger, lost),
        ended_ms=lost.ended_ms,
    )


def now_ms() -> int:
    return time.time_ns() // 1_000_000

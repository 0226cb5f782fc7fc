"""What follows the commit: jobs of effective claims are handed over for execution, unless they may not start any more.

Used by the intake in its one thread, after `agents.intake.claim_commit`. Nothing that fails here reaches the intake: a
job that cannot be handed over is lost with the node, and goes to its next attempt.
"""

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

from headrace.contract.records import Place
from headrace.contract.states import Reason
from headrace.kafka.sender import Sender
from headrace.process.failpoints import Failpoint

from ..completion.claim_members import ClaimMembers, send_unstarted_outcome
from ..execution.job import Job, Jobs
from ..membership.identity import NodeIdentity
from .admission import Refusal, refusal_outcome
from .cancellations import Cancellations

log = logging.getLogger(__name__)

LogEnds = dict[Place, Future[Any]]


class JobStarter:
    """`hand_over` is called with jobs for which one slot is reserved; `is_stopping` ends all waiting.

    `hand_over_lost` is called with jobs that could not be handed over, and why. They have no slot.
    """

    def __init__(
        self,
        sender: Sender,
        node: NodeIdentity,
        *,
        cancellations: Cancellations,
        members: ClaimMembers,
        hand_over: Callable[[Jobs], None],
        hand_over_lost: Callable[[Jobs, str], None],
        failpoint: Failpoint,
        is_stopping: Callable[[], bool],
    ) -> None:
        self._sender, self._node, self._cancellations, self._members = sender, node, cancellations, members
        self._hand_over, self._hand_over_lost = hand_over, hand_over_lost
        self._failpoint, self._is_stopping = failpoint, is_stopping

    def start_groups(self, groups: Sequence[Sequence[Job]], control_ends: LogEnds) -> int:
        """Hands over the jobs that may start; returns how many groups have such.

        Nothing may start before the control log has been read to `control_ends`. 0 when the intake is stopping: the
        claims stay, and the reaper has them once this boot is dead.
        """
        try:
            if not self._cancellations.wait_until_read(control_ends, self._is_stopping):
                return 0
        except Exception as e:  # noqa: BLE001 - whatever it is, nobody else has these jobs
            self._lose([job for group in groups for job in group], e)
            return 0
        return sum(self._start_group(group) for group in groups)

    def _start_group(self, group: Sequence[Job]) -> bool:
        jobs = [job for job in group if self._may_start_or_lose(job)]
        if not jobs:
            return False
        try:
            self._failpoint("before start")
            self._hand_over(jobs)
        except Exception as e:  # noqa: BLE001 - whatever it is, nobody else has these jobs
            self._lose(jobs, e)
            return False
        return True

    def _may_start_or_lose(self, job: Job) -> bool:
        try:
            return self._may_start(job)
        except Exception as e:  # noqa: BLE001 - whatever it is, nobody else has these jobs
            self._lose([job], e)
            return False

    def _lose(self, jobs: Jobs, error: Exception) -> None:
        """Call it where an error is handled. The claims are effective and nothing of the jobs has run."""
        log.exception("%d claimed tasks could not be handed over, and are sent again", len(jobs))
        self._hand_over_lost(jobs, f"the node could not hand over the attempt: {type(error).__name__}: {error}")

    def _may_start(self, job: Job) -> bool:
        if not self._node.is_current(job.claim.by):
            return False  # fenced meanwhile: the claim is the reaper's
        if self._cancellations.is_cancelled(job.task.id):
            s = job.submission
            refusal = Refusal(Reason.CANCELLED, "cancelled before it started", s.name, s.directory)
            outcome = refusal_outcome(job.task, refusal, boot=job.claim.by, node=self._node.name)
            send_unstarted_outcome(self._sender, self._members, job.claim, outcome)
            return False
        return True

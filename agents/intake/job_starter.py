"""What follows the commit: jobs of effective claims are handed over for execution, unless they may not start any more.

Used by the intake in its one thread, after `agents.intake.claim_commit`.
"""

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

LogEnds = dict[Place, Future[Any]]


class JobStarter:
    """`hand_over` is called with jobs for which one slot is reserved; `is_stopping` ends all waiting."""

    def __init__(
        self,
        sender: Sender,
        node: NodeIdentity,
        *,
        cancellations: Cancellations,
        members: ClaimMembers,
        hand_over: Callable[[Jobs], None],
        failpoint: Failpoint,
        is_stopping: Callable[[], bool],
    ) -> None:
        self._sender, self._node, self._cancellations, self._members = sender, node, cancellations, members
        self._hand_over, self._failpoint, self._is_stopping = hand_over, failpoint, is_stopping

    def wait_control_log(self, ends: LogEnds) -> bool:
        """Returns True when the control log has been read to `ends`; nothing may start before.

        False when the intake is stopping: the claims stay, and the reaper has them once this boot is dead.
        """
        return self._cancellations.wait_until_read(ends, self._is_stopping)

    def start_group(self, group: Sequence[Job]) -> bool:
        """Hands over the group's jobs that may start; returns whether there are any."""
        jobs = [job for job in group if self._may_start(job)]
        if jobs:
            self._failpoint("before start")
            self._hand_over(jobs)
        return bool(jobs)

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

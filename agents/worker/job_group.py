"""The jobs that one slot of the node runs, one after another, and which of them have no end yet.

Made by `agents.worker.agent`, in its event loop. A job is in the group from the moment it is handed over until its end
is reported, it moves to another slot, or it turns out to be of an earlier boot. Pure.
"""

from collections import deque
from collections.abc import Sequence

from ..execution.job import Job, Key


class JobGroup:
    """`waiting` is what the pool takes jobs from; `is_batch`: they were several at first; `begun` has the keys of those
    whose attempt was announced."""

    def __init__(self, jobs: Sequence[Job]) -> None:
        self.waiting = deque(jobs)
        self.is_batch = len(jobs) > 1
        self.begun = set[Key]()
        self._unended = {job.key: job for job in jobs}

    @property
    def unended(self) -> Sequence[Job]:
        """The jobs without an end."""
        return tuple(self._unended.values())

    def lost(self) -> Sequence[Job]:
        """Those that neither have an end nor wait: what ran them is over."""
        waiting = {job.key for job in self.waiting}
        return tuple(job for key, job in self._unended.items() if key not in waiting)

    def drop(self, job: Job) -> None:
        """The job has its end, or is another boot's."""
        self._unended.pop(job.key, None)

    def take_waiting(self) -> Sequence[Job]:
        """Takes the waiting jobs out, to be run by another group."""
        taken = tuple(self.waiting)
        self.waiting.clear()
        for job in taken:
            self.drop(job)
        return taken

"""The ends of attempts on their way to Kafka: each is reported until Kafka knows what follows.

Used by `agents.worker.agent`, in its event loop. The ends of a micro-batch's members are gathered for some milliseconds
and reported together: a request to the broker costs the same for one record and for fifty. Without a report an attempt
would count as running for ever, so an end that cannot be reported is reported again, as lost with the node.
"""

import asyncio
import logging
from collections.abc import Sequence
from typing import Protocol

from headrace.contract.states import Cause

from ..execution.job import AttemptEnd, Job, Key

log = logging.getLogger(__name__)

_GATHER_S = 0.01  # how long the end of a micro-batch's member waits for others
_MOST_GATHERED = 64
_LONGEST_PAUSE_S = 30.0  # before an end that could not be reported is reported again

Ended = tuple[Job, AttemptEnd]


class AttemptFinisher(Protocol):
    """Sends the ends of attempts to Kafka: `agents.completion.finisher`."""

    def started(self, job: Job) -> None:
        """Sends lifecycle.started, without waiting."""

    async def finish(self, job: Job, end: AttemptEnd) -> None:
        """Sends the outcome, or the next attempt, then the tombstone; returns when Kafka has acknowledged all of it."""

    async def finish_completed(self, ended: Sequence[Ended]) -> Sequence[Ended]:
        """Finishes many attempts at once; returns those that `finish` has still to be called for."""


class Reports:
    """Nothing that the finisher raises reaches the caller."""

    def __init__(self, finisher: AttemptFinisher) -> None:
        self._finisher = finisher
        self._gathered: list[Ended] = []
        self._due: asyncio.TimerHandle | None = None
        self._finishing = dict[asyncio.Task[None], Sequence[Job]]()
        self._unreported = dict[Key, str]()  # why the ends of these jobs could not be reported yet

    def __len__(self) -> int:
        """How many ended attempts Kafka has not acknowledged."""
        return len(self._gathered) + sum(len(jobs) for jobs in self._finishing.values())

    def jobs(self) -> Sequence[Job]:
        """Those whose ends are being reported."""
        return [*(job for job, _ in self._gathered), *(job for jobs in self._finishing.values() for job in jobs)]

    def tasks(self) -> Sequence[asyncio.Task[None]]:
        """What to wait for until something has been reported; reports at once what was gathered."""
        self.flush()
        return tuple(self._finishing)

    def check(self) -> str | None:
        """For `/readyz`: why ends of attempts cannot be reported, or None."""
        if not self._unreported:
            return None
        (task_id, *_), error = next(iter(self._unreported.items()))
        count = len(self._unreported)
        return f"ends of attempts cannot be reported ({count}, such as that of task {task_id}): {error}"

    def add(self, job: Job, end: AttemptEnd) -> None:
        """Reports the end at once."""
        self._begin(asyncio.create_task(self._finish(job, end)), [job])

    def gather(self, job: Job, end: AttemptEnd) -> None:
        """Reports the end within some milliseconds, together with others; at once what cannot go with them."""
        if end.cause is not None or end.result_file is not None:
            self.add(job, end)
            return
        self._gathered.append((job, end))
        if len(self._gathered) >= _MOST_GATHERED:
            self.flush()
        elif self._due is None:
            self._due = asyncio.get_running_loop().call_later(_GATHER_S, self.flush)

    def flush(self) -> None:
        """Reports what was gathered now."""
        if self._due is not None:
            self._due.cancel()
            self._due = None
        if self._gathered:
            ended, self._gathered = self._gathered, []
            self._begin(asyncio.create_task(self._finish_all(ended)), [job for job, _ in ended])

    def _begin(self, finishing: "asyncio.Task[None]", jobs: Sequence[Job]) -> None:
        self._finishing[finishing] = jobs
        finishing.add_done_callback(self._finishing.pop)

    async def _finish_all(self, ended: Sequence[Ended]) -> None:
        rest = ended
        try:
            rest = await self._finisher.finish_completed(ended)
        except Exception:
            log.exception("%d attempts are finished one by one", len(ended))
        for job, end in rest:  # each by itself: the others have ended
            self.add(job, end)

    async def _finish(self, job: Job, end: AttemptEnd) -> None:
        """Returns when Kafka knows what follows."""
        pause_s = 0.0
        try:
            while (error := await self._try_finish(job, end)) is not None:
                self._unreported[job.key] = words = f"{type(error).__name__}: {error}"
                # What has failed may be this end itself: an unreadable result file, say.
                detail = f"the node could not report how the attempt ended: {words}"
                end = AttemptEnd.now(Cause.NODE_LOSS, detail, begun=end.begun)
                await asyncio.sleep(pause_s)
                pause_s = min(_LONGEST_PAUSE_S, 2 * pause_s + 0.5)
        finally:
            self._unreported.pop(job.key, None)

    async def _try_finish(self, job: Job, end: AttemptEnd) -> Exception | None:
        try:
            await self._finisher.finish(job, end)
        except Exception as e:
            log.exception("Attempt %d of task %s could not be finished", job.task.attempt, job.task.id)
            return e
        return None

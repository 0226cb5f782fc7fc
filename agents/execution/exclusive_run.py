"""Which attempts of a node run at the same time, and the exclusive run after an out-of-memory kill.

Used by `agents.execution.pool`, in its event loop. When memory runs out the kernel chooses its victim by size, although
another attempt may have taken the rest: so the victim runs again alone before it is charged. How long the node stands
still for that is bounded: then the attempt runs beside those that have not ended, and nothing else begins.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace

from headrace.contract.cluster import Wait

from .job import AttemptEnd, Job

WAIT_S = 60.0


class Lease:
    """The right of one attempt to run. `release` must be called once, when all of its processes have ended."""

    def __init__(self, owner: "ExclusiveRun", beside: int, alone: "_Alone | None") -> None:
        self.beside = beside  # how many attempts ran when it began
        self.ran_beside_others = beside > 0  # whether the node has run another attempt during the lease
        self.alone = alone
        self._owner = owner

    def release(self) -> None:
        self._owner.release(self)

    def explain(self, end: AttemptEnd) -> AttemptEnd:
        """The attempt's end as it is told: a second kill for memory counts, and says beside whom."""
        if not end.oom_victim or self.alone is None or not self.beside:
            return end
        beside = f"{self.beside} of the attempts beside it had not ended after {self._owner.wait_s:g} s"
        return replace(end, detail=f"{end.detail}, for the second time; it could not run alone, because {beside}")


class _Alone:
    """One attempt that is to run alone, from its request to its end."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.since_ms = time.time_ns() // 1_000_000


class ExclusiveRun:
    """The leases of one node: any number of shared ones, and at most one exclusive one."""

    def __init__(self, on_exclusive: Callable[[bool], None], wait_s: float = WAIT_S) -> None:
        """`on_exclusive` gets True when a first attempt asks to run alone, False when no attempt does any more.

        `wait_s`: how long such an attempt waits for those that run before it runs beside what is left of them.
        """
        self._on_exclusive, self.wait_s = on_exclusive, wait_s
        self._leases = set[Lease]()
        self._changed = asyncio.Condition()
        self._requests: list[_Alone] = []  # attempts that wait to run alone, or do
        self._running: _Alone | None = None  # the one of them that runs
        self._notifying = set[asyncio.Task[None]]()

    async def acquire(self, alone: Job | None = None) -> Lease:
        """Waits until no attempt runs alone or waits to; with `alone`, the job that is to, for its turn among those and
        then for the others to end, `wait_s` at most."""
        async with self._changed:
            if alone is None:
                await self._changed.wait_for(lambda: not self._requests)
                request = None
            else:
                request = await self._wait_alone(alone)
            lease = Lease(self, len(self._leases), request)
            for other in self._leases:
                other.ran_beside_others = True
            self._leases.add(lease)
            return lease

    def release(self, lease: Lease) -> None:
        self._leases.remove(lease)
        if lease.alone is not None:
            self._running = None
            self._end_request(lease.alone)
        elif self._requests:
            self._notify()

    def waits(self) -> list[Wait]:
        """The attempts that are to run alone, in words; from any thread."""
        running, others = self._running, len(self._leases)
        return [self._describe(request, request is running, others) for request in list(self._requests)]

    def _describe(self, request: _Alone, runs: bool, others: int) -> Wait:
        job = request.job
        after = f"task {job.task.id} ({job.submission.name}), which the kernel killed beside others for memory"
        if runs:
            text = f"takes nothing new while {after}, runs again"
        else:
            text = (
                f"takes nothing new, so that {after}, runs alone: waits {self.wait_s:g} s at most for {others} to end"
            )
        return Wait("alone", job.submission.name, job.task.id, request.since_ms, text, str(job.task.source))

    async def _wait_alone(self, job: Job) -> _Alone:
        request = _Alone(job)
        self._requests.append(request)
        self._on_exclusive(True)
        try:
            await self._changed.wait_for(lambda: self._running is None and self._requests[0] is request)
            try:
                async with asyncio.timeout(self.wait_s):
                    await self._changed.wait_for(lambda: not self._leases)
            except TimeoutError:
                pass  # it has the most of the node that it can get
        except BaseException:
            self._end_request(request)
            raise
        self._running = request
        return request

    def _end_request(self, request: _Alone) -> None:
        self._requests.remove(request)
        if not self._requests:
            self._on_exclusive(False)
        self._notify()

    def _notify(self) -> None:
        async def notify() -> None:
            async with self._changed:
                self._changed.notify_all()

        task = asyncio.get_running_loop().create_task(notify())
        self._notifying.add(task)
        task.add_done_callback(self._notifying.discard)

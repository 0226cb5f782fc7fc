"""Which attempts of a node run at the same time, and the exclusive run after an out-of-memory kill.

Used by `agents.execution.pool`, in its event loop. When memory runs out the kernel chooses its victim by size, although
another attempt may have taken the rest: only an attempt that is killed while it runs alone is charged for it.
"""

import asyncio
from collections.abc import Callable


class Lease:
    """The right of one attempt to run. `release` must be called once, when all of its processes have ended."""

    def __init__(self, owner: "ExclusiveRun", ran_beside_others: bool) -> None:
        self.ran_beside_others = ran_beside_others  # whether the node has run another attempt during the lease
        self._owner = owner

    def release(self) -> None:
        self._owner.release(self)


class ExclusiveRun:
    """The leases of one node: any number of shared ones, or one exclusive one."""

    def __init__(self, on_exclusive: Callable[[bool], None]) -> None:
        """`on_exclusive` gets True when a first attempt asks to run alone, False when no attempt does any more."""
        self._on_exclusive = on_exclusive
        self._leases = set[Lease]()
        self._changed = asyncio.Condition()
        self._exclusive_requests = 0  # attempts that wait to run alone, or do
        self._is_exclusive = False
        self._notifying = set[asyncio.Task[None]]()

    async def acquire(self, exclusive: bool) -> Lease:
        """Waits until no other attempt runs (`exclusive`), or until none runs alone or waits to."""
        async with self._changed:
            if exclusive:
                await self._wait_alone()
            else:
                await self._changed.wait_for(lambda: not self._exclusive_requests)
            lease = Lease(self, ran_beside_others=bool(self._leases))
            for other in self._leases:
                other.ran_beside_others = True
            self._leases.add(lease)
            return lease

    def release(self, lease: Lease) -> None:
        self._leases.remove(lease)
        if self._is_exclusive:
            self._is_exclusive = False
            self._end_exclusive_request()
        elif self._exclusive_requests:
            self._notify()

    async def _wait_alone(self) -> None:
        self._exclusive_requests += 1
        self._on_exclusive(True)
        try:
            await self._changed.wait_for(lambda: not self._leases)
        except BaseException:
            self._end_exclusive_request()
            raise
        self._is_exclusive = True

    def _end_exclusive_request(self) -> None:
        self._exclusive_requests -= 1
        if not self._exclusive_requests:
            self._on_exclusive(False)
        self._notify()

    def _notify(self) -> None:
        async def notify() -> None:
            async with self._changed:
                self._changed.notify_all()

        task = asyncio.get_running_loop().create_task(notify())
        self._notifying.add(task)
        task.add_done_callback(self._notifying.discard)

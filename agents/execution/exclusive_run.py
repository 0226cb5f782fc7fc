"""Who runs at the same time on a node, so that one for whom the kernel had no memory can be run alone.

Used by `agents.execution.pool`, in its event loop. When memory is short the kernel chooses a victim by its size, and a
neighbour may have taken the rest: only an attempt that is killed while nothing else runs on its node is to blame for
it.
"""

import asyncio
from collections.abc import Callable


class Lease:
    """The time of one attempt in a slot. `leave` must be called once."""

    def __init__(self, company: "ExclusiveRun", in_company: bool) -> None:
        self.in_company = in_company  # whether anything else has run on the node meanwhile
        self._company = company

    def leave(self) -> None:
        self._company.left(self)


class ExclusiveRun:
    """All attempts of one node."""

    def __init__(self, on_asked: Callable[[bool], None]) -> None:
        """`on_asked` is told when the first asks to be alone, and when none does any more."""
        self._on_asked = on_asked
        self._present = set[Lease]()
        self._changed = asyncio.Condition()
        self._asking = 0  # attempts that wait to be alone, or are
        self._alone = False
        self._waking = set[asyncio.Task[None]]()

    async def enter(self, alone: bool) -> Lease:
        """Waits while an attempt is alone or waits to be; with `alone`, until nothing else runs on the node."""
        async with self._changed:
            if alone:
                self._asking += 1
                self._on_asked(True)
                try:
                    await self._changed.wait_for(lambda: not self._present)
                except BaseException:
                    self._ask_no_more()
                    raise
                self._alone = True
            else:
                await self._changed.wait_for(lambda: not self._asking)
            stay = Lease(self, in_company=bool(self._present))
            for other in self._present:
                other.in_company = True
            self._present.add(stay)
            return stay

    def left(self, stay: Lease) -> None:
        """An attempt has ended, and all that it had started."""
        self._present.remove(stay)
        if self._alone:
            self._alone = False
            self._ask_no_more()
        elif self._asking:
            self._wake()

    def _ask_no_more(self) -> None:
        self._asking -= 1
        if not self._asking:
            self._on_asked(False)
        self._wake()

    def _wake(self) -> None:
        async def wake() -> None:
            async with self._changed:
                self._changed.notify_all()

        task = asyncio.get_running_loop().create_task(wake())
        self._waking.add(task)
        task.add_done_callback(self._waking.discard)

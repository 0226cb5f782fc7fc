"""Which of the pool's slots can begin attempts: those with a child, and with room on the disk for a scratch directory.

Used by `agents.execution.pool`, in its event loop. A slot that fails is tried again, without a task, until it is fit. A
job that is given to it meanwhile waits there: ended at once, it would come back at once, and soon have used up its
attempts.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable

from agents.execution.slot import PoolSlot

log = logging.getLogger(__name__)

_AGAIN_S = 1.0


class SlotHealth:
    """All methods belong to the event loop."""

    def __init__(self) -> None:
        self._doubts: dict[PoolSlot, tuple[asyncio.Task[None], str]] = {}
        self._closing = asyncio.Event()

    def doubt(self, slot: PoolSlot, error: Exception) -> None:
        """An attempt could not be run there, or no child be made."""
        found = self._doubts.get(slot)
        task = found[0] if found is not None else asyncio.create_task(self._prove(slot))
        self._doubts[slot] = task, f"{type(error).__name__}: {error}"

    async def proven(self, slot: PoolSlot, is_stopped: Callable[[], bool]) -> None:
        """Returns when the slot is fit, at once if nothing speaks against it; or when the job is stopped."""
        while (found := self._doubts.get(slot)) is not None and not is_stopped():
            await asyncio.wait({found[0]}, timeout=_AGAIN_S)

    def check(self) -> str | None:
        """For `/readyz`: why attempts cannot begin."""
        if not self._doubts:
            return None
        numbers = ", ".join(str(slot.number) for slot in self._doubts)
        return f"no attempt can begin in slot {numbers}: {next(iter(self._doubts.values()))[1]}"

    async def close(self) -> None:
        """Tries no more."""
        self._closing.set()
        while self._doubts:
            await asyncio.wait({task for task, _ in self._doubts.values()})

    async def _prove(self, slot: PoolSlot) -> None:
        try:
            while not self._closing.is_set():
                try:
                    await slot.prove()
                    log.info("Slot %d can begin attempts", slot.number)
                    return
                except Exception as e:  # noqa: BLE001 - whatever it is, an attempt would meet it too
                    self.doubt(slot, e)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._closing.wait(), _AGAIN_S)
        finally:
            del self._doubts[slot]

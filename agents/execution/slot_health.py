"""Which slots of the pool can begin attempts: those with a live child and with room on disk for a scratch directory.

Used by `agents.execution.pool`, in its event loop. A slot that fails is probed, without a task, until it works again. A
job for that slot waits meanwhile: if its attempt failed at once it would come back at once, and soon use up its
attempts.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable

from .slot import PoolSlot

log = logging.getLogger(__name__)

_PROBE_EVERY_S = 1.0


class SlotHealth:
    """All methods belong to the event loop."""

    def __init__(self) -> None:
        self._failing: dict[PoolSlot, tuple[asyncio.Task[None], str]] = {}  # each slot's probing, and its last error
        self._closing = asyncio.Event()

    def report_failure(self, slot: PoolSlot, error: Exception) -> None:
        """The slot could not run an attempt or make a child: starts probing it."""
        failing = self._failing.get(slot)
        task = failing[0] if failing is not None else asyncio.create_task(self._probe(slot))
        self._failing[slot] = task, f"{type(error).__name__}: {error}"

    async def wait_healthy(self, slot: PoolSlot, is_stopped: Callable[[], bool]) -> None:
        """Returns when the slot works, at once if it has not failed, or when the job is stopped."""
        while (failing := self._failing.get(slot)) is not None and not is_stopped():
            await asyncio.wait({failing[0]}, timeout=_PROBE_EVERY_S)

    def check(self) -> str | None:
        """For `/readyz`: why attempts cannot begin, or None."""
        if not self._failing:
            return None
        numbers = ", ".join(str(slot.number) for slot in self._failing)
        return f"no attempt can begin in slot {numbers}: {next(iter(self._failing.values()))[1]}"

    async def close(self) -> None:
        """Stops probing."""
        self._closing.set()
        while self._failing:
            await asyncio.wait({task for task, _ in self._failing.values()})

    async def _probe(self, slot: PoolSlot) -> None:
        try:
            while not self._closing.is_set():
                try:
                    await slot.probe()
                    log.info("Slot %d can begin attempts again", slot.number)
                    return
                except Exception as e:  # noqa: BLE001 - an attempt would meet the same error, whatever it is
                    self.report_failure(slot, e)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._closing.wait(), _PROBE_EVERY_S)
        finally:
            del self._failing[slot]

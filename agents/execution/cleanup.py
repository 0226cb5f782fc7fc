"""Clean-up after an attempt: keeps its log, kills its processes, removes its scratch, renews its slot's child.

Used by `agents.execution.pool`, in its event loop. Errors go to the log and, where the slot cannot run attempts because
of them, to `SlotHealth`: none reaches the caller.
"""

import asyncio
import logging
import os
import shutil
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from headrace.process.throttled_log import log_throttled
from headrace.storage.attempt_log import keep_log

from .attempt import Attempt
from .orphans import Orphans
from .slot import PoolSlot
from .slot_health import SlotHealth

log = logging.getLogger(__name__)

_DEATH_S = 5.0  # a killed child is seen dead at once, unless a system call holds it


class Cleanup:
    """`live_children` gives the pids of all children; attempts' logs are kept below `logs`, if given."""

    def __init__(
        self, orphans: Orphans, slot_health: SlotHealth, live_children: Callable[[], set[int]], logs: Path | None
    ) -> None:
        self._orphans, self._slot_health, self._live_children, self._logs = orphans, slot_health, live_children, logs
        self._background = set[asyncio.Task[None]]()

    async def kill_orphans(self) -> None:
        await self._orphans.kill_all(self._live_children)

    async def keep_log(self, attempt: Attempt) -> None:
        task, printed = attempt.job.task, attempt.slot.output.take_tail()
        if printed and self._logs:
            try:
                await asyncio.to_thread(keep_log, self._logs, task.id, task.attempt, printed)
            except OSError as e:
                log_throttled("attempt log", "An attempt's log cannot be written below %s: %s", self._logs, e)

    async def clean_up(self, attempts: list[Attempt]) -> None:
        """Ends and removes all that the attempts have started or left on disk, and empties the list.

        Then their slot can run the next attempt.
        """
        for attempt in list(attempts):
            try:
                if attempt.needs_new_child and attempt.child is not None:
                    await asyncio.to_thread(attempt.child.kill_tree)
                    await self.kill_orphans()
                    await asyncio.wait_for(attempt.child.death.wait(), _DEATH_S)
                    await attempt.slot.ready_child()
            except Exception as e:
                log.exception("Slot %d could not be cleaned up", attempt.slot.number)
                self._slot_health.report_failure(attempt.slot, e)
            attempts.remove(attempt)
            try:
                os.rmdir(attempt.scratch)  # most attempts leave it empty
            except OSError:
                self.in_background(asyncio.to_thread(shutil.rmtree, attempt.scratch, ignore_errors=True))

    def renew_child(self, slot: PoolSlot) -> None:
        """Replaces a dead child now, so that the next attempt need not wait for it."""
        self.in_background(self._renew_child(slot))

    def in_background(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        task = asyncio.get_running_loop().create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        return task

    async def close(self) -> None:
        """Waits for what runs in the background."""
        while self._background:
            await asyncio.wait(self._background)

    async def _renew_child(self, slot: PoolSlot) -> None:
        try:
            await slot.ready_child()
        except Exception as e:
            log.exception("Slot %d: no child process could be started", slot.number)
            self._slot_health.report_failure(slot, e)

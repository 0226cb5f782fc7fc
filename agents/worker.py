"""The worker agent: a Faust agent on an in-memory channel, which holds the node's slots and its process pool.

The intake thread hands it jobs whose claims are acknowledged and committed. It is the agent that works: while it runs
slots can be reserved, and when it stops no task runs, what ran is killed, and nothing more is claimed. What becomes of
an attempt goes to the finisher, which tells Kafka; a slot is free again only when that is done.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any, Protocol

import faust

from agents.hand_over import HandOverChannel
from agents.pool import Pool
from agents.slots import Slots
from agents.work import AttemptEnd, Job
from headrace.states import Cause

log = logging.getLogger(__name__)

_TELL_S = 15.0  # what is killed at the end of a drain can be told within it, unless Kafka is away: then the reaper does


class Finishes(Protocol):
    """Who tells Kafka of attempts: `agents.finish`."""

    def started(self, job: Job) -> None:
        """Sends lifecycle.started, without waiting."""

    async def finish(self, job: Job, end: AttemptEnd) -> None:
        """Sends the outcome, or the next attempt, then the tombstone; returns when Kafka has all of it."""


class Watches(Protocol):
    """Who counts attempts: `agents.stats`."""

    def ended(self, job: Job, end: AttemptEnd) -> None: ...


class Worker:
    """`hand_over` may be called from any thread, all else from the app's event loop."""

    def __init__(
        self,
        slots: Slots,
        pool: Pool,
        finisher: Finishes,
        stats: Watches,
        is_ours: Callable[[Job], bool] = lambda _: True,
    ) -> None:
        """`is_ours` is asked right before an attempt: the boot that a job was claimed for may be over by then."""
        self._slots, self._pool, self._finisher, self._stats = slots, pool, finisher, stats
        self._is_ours = is_ours
        self._loop: asyncio.AbstractEventLoop | None = None
        self._channel: HandOverChannel | None = None
        self._attempts = set[asyncio.Task[None]]()

    def attach(self, app: faust.App) -> None:
        """Call once, in the event loop, before the app starts."""
        self._loop = asyncio.get_running_loop()
        self._channel = HandOverChannel(app)
        app.agent(self._channel, name="worker")(self._work)

    def hand_over(self, job: Job) -> None:
        """Gives the agent a job that may start; its slot has been reserved."""
        assert self._loop is not None
        assert self._channel is not None
        self._loop.call_soon_threadsafe(self._channel.put_job, job)

    async def drain(self, grace_s: float) -> bool:
        """Gives what runs its time and kills the rest; returns whether all of it could be told to Kafka."""
        deadline = time.monotonic() + grace_s
        while self._slots.used and (left_s := deadline - time.monotonic()) > 0:
            await asyncio.wait(self._attempts or {asyncio.create_task(asyncio.sleep(0.05))}, timeout=left_s)
        deadline = time.monotonic() + _TELL_S
        while self._slots.used and time.monotonic() < deadline:
            self._pool.stop_running(
                Cause.DRAIN, f"the node was drained, and the {grace_s:g} s that it gives had passed"
            )
            await asyncio.wait(self._attempts or {asyncio.create_task(asyncio.sleep(0.05))}, timeout=0.5)
        return not self._slots.used

    async def _work(self, stream: Any) -> None:
        self._slots.set_open(True)
        try:
            async for job in stream:
                attempt = asyncio.create_task(self._run(job))
                self._attempts.add(attempt)
                attempt.add_done_callback(self._attempts.discard)
        finally:
            self._slots.set_open(False)
            for attempt in self._attempts:
                attempt.cancel()

    async def _run(self, job: Job) -> None:
        try:
            if not self._is_ours(job):
                return
            self._finisher.started(job)
            end = await self._attempt(job)
            self._stats.ended(job, end)
            await self._finisher.finish(job, end)
        except Exception:
            log.exception("Attempt %d of task %s could not be finished", job.task.attempt, job.task.id)
        finally:
            self._slots.release()

    async def _attempt(self, job: Job) -> AttemptEnd:
        began_ms = time.time_ns() // 1_000_000
        try:
            return await self._pool.run(job)
        except Exception as e:  # a full disk, no more processes: the node's fault, not the task's
            log.exception("Task %s could not be run", job.task.id)
            detail = f"the node could not run it: {type(e).__name__}: {e}"
            return AttemptEnd(began_ms, time.time_ns() // 1_000_000, cause=Cause.NODE_LOSS, detail=detail)

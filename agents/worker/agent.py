"""The worker agent: a Faust agent on an in-memory channel, which holds the node's slots and its process pool.

The intake thread hands it jobs whose claims are acknowledged and committed: one, or a chunk of tiny ones for one slot.
It is the agent that works: while it runs slots can be reserved, and when it stops no task runs, what ran is killed, and
nothing more is claimed. What becomes of an attempt goes to the finisher, which tells Kafka.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

import faust

from agents.execution.job import AttemptEnd, Job, Jobs
from agents.execution.pool import Pool
from agents.execution.slots import Slots
from agents.faust_kit.channel import HandOverChannel
from agents.intake.micro_batching import RunTimes
from headrace.contract.states import Cause

log = logging.getLogger(__name__)

_TELL_S = 15.0  # what is killed at the end of a drain can be told within it, unless Kafka is away: then the reaper does
_PATIENCE_S = 0.2  # a member of a chunk that takes so long is not tiny after all: the others need not wait for it
_MOST_FINISHING = 512  # ended attempts that Kafka has not heard of yet; beyond it, slots wait for them


class Finishes(Protocol):
    """Who tells Kafka of attempts: `agents.completion.finisher`."""

    def started(self, job: Job) -> None:
        """Sends lifecycle.started, without waiting."""

    async def finish(self, job: Job, end: AttemptEnd) -> None:
        """Sends the outcome, or the next attempt, then the tombstone; returns when Kafka has all of it."""


class Watches(Protocol):
    """Who counts attempts: `agents.monitoring.stats`."""

    def ended(self, job: Job, end: AttemptEnd) -> None: ...


class Worker:
    """`hand_over` may be called from any thread, all else from the app's event loop."""

    def __init__(
        self,
        slots: Slots,
        pool: Pool,
        finisher: Finishes,
        stats: Watches,
        run_times: RunTimes | None = None,
        is_ours: Callable[[Job], bool] = lambda _: True,
        is_cancelled: Callable[[str], bool] = lambda _: False,
    ) -> None:
        """`is_ours` and `is_cancelled` are asked right before an attempt: either may have changed since the claim."""
        self._slots, self._pool, self._finisher, self._stats = slots, pool, finisher, stats
        self._run_times = run_times or RunTimes()
        self._is_ours, self._is_cancelled = is_ours, is_cancelled
        self._loop: asyncio.AbstractEventLoop | None = None
        self._channel: HandOverChannel | None = None
        self._running = set[asyncio.Task[None]]()
        self._finishing = set[asyncio.Task[None]]()

    def attach(self, app: faust.App) -> None:
        """Call once, in the event loop, before the app starts."""
        self._loop = asyncio.get_running_loop()
        self._channel = HandOverChannel(app)
        app.agent(self._channel, name="worker")(self._work)

    def hand_over(self, jobs: Jobs) -> None:
        """Gives the agent jobs that may start; one slot has been reserved for them."""
        assert self._loop is not None
        assert self._channel is not None
        self._loop.call_soon_threadsafe(self._channel.hand_over, jobs)

    async def drain(self, grace_s: float) -> bool:
        """Gives what runs its time and kills the rest; returns whether all of it could be told to Kafka."""
        deadline = time.monotonic() + grace_s
        while self._is_busy and (left_s := deadline - time.monotonic()) > 0:
            await self._wait_for_any(left_s)
        deadline = time.monotonic() + _TELL_S
        while self._is_busy and time.monotonic() < deadline:
            self._pool.stop_running(
                Cause.DRAIN, f"the node was drained, and the {grace_s:g} s that it gives had passed"
            )
            await self._wait_for_any(0.5)
        return not self._is_busy

    @property
    def _is_busy(self) -> bool:
        return bool(self._slots.used or self._finishing)

    async def _wait_for_any(self, timeout_s: float) -> None:
        either = {*self._running, *self._finishing} or {asyncio.create_task(asyncio.sleep(0.05))}
        await asyncio.wait(either, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)

    async def _work(self, stream: Any) -> None:
        self._slots.set_open(True)
        try:
            async for jobs in stream:
                self._begin(deque(jobs))
        finally:
            self._slots.set_open(False)
            for running in self._running:
                running.cancel()

    def _begin(self, jobs: deque[Job]) -> None:
        """One slot has been reserved for them."""
        running = asyncio.create_task(self._run(jobs))
        self._running.add(running)
        running.add_done_callback(self._running.discard)

    async def _run(self, jobs: deque[Job]) -> None:
        watching = asyncio.create_task(self._watch(jobs)) if len(jobs) > 1 else None
        try:
            await self._pool.run_all(jobs, self._begins, self._ended)
            while len(self._finishing) > _MOST_FINISHING:
                await asyncio.wait(self._finishing, return_when=asyncio.FIRST_COMPLETED)
        finally:
            if watching is not None:
                watching.cancel()
            self._slots.release()

    def _begins(self, job: Job) -> bool:
        if not self._is_ours(job):
            return False
        if self._is_cancelled(job.task.id):
            self._ended(job, AttemptEnd.now(Cause.PROCESS_DEATH, "cancelled"))
            return False
        self._finisher.started(job)
        return True

    def _ended(self, job: Job, end: AttemptEnd) -> None:
        if end.begun:
            self._stats.ended(job, end)
        if end.cause is None:
            self._run_times.add_run(job.submission.name, (end.ended_ms - end.started_ms) / 1000)
        finishing = asyncio.create_task(self._finish(job, end))
        self._finishing.add(finishing)
        finishing.add_done_callback(self._finishing.discard)

    async def _finish(self, job: Job, end: AttemptEnd) -> None:
        error = await self._tell(job, end)
        if error is not None:  # its result cannot be read, say: untold, it would count as running while this boot lives
            why = f"the node could not tell how it ended: {type(error).__name__}: {error}"
            await self._tell(job, AttemptEnd.now(Cause.NODE_LOSS, why, begun=end.begun))

    async def _tell(self, job: Job, end: AttemptEnd) -> Exception | None:
        try:
            await self._finisher.finish(job, end)
        except Exception as e:
            log.exception("Attempt %d of task %s could not be finished", job.task.attempt, job.task.id)
            return e
        return None

    async def _watch(self, jobs: deque[Job]) -> None:
        """Gives what waits behind a slow member to the next slot that falls free."""
        before = 0
        while len(jobs) != before:
            before = len(jobs)
            await asyncio.sleep(_PATIENCE_S)
        if not jobs:
            return
        rest, loop = deque(jobs), asyncio.get_running_loop()
        jobs.clear()

        def begin() -> None:
            loop.call_soon_threadsafe(self._begin, rest)

        self._slots.reserve_next(begin)

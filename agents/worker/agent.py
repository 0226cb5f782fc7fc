"""The worker agent: a Faust agent on an in-memory channel that runs jobs in the node's process pool.

The intake's thread hands it jobs whose claims are acknowledged and committed: one job, or a micro-batch of tiny ones
for one slot. While the agent runs, slots can be reserved; when it stops, running attempts are killed and the node
claims nothing more. Each attempt's end goes to the finisher, which sends it to Kafka.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

import faust

from headrace.contract.states import Cause

from ..execution.job import AttemptEnd, Job, Jobs
from ..execution.pool import Pool
from ..execution.slots import Slots
from ..faust_kit.channel import HandOverChannel
from ..intake.micro_batching import RunTimes

log = logging.getLogger(__name__)

_REPORT_S = 15.0  # for the ends of killed attempts to reach Kafka in a drain; while Kafka is away the reaper does it
_SLOW_MEMBER_S = 0.2  # a member of a micro-batch that runs so long is not tiny: the others need not wait for it
_MAX_FINISHING = 512  # ended attempts that Kafka has not acknowledged; beyond it, slots wait for them


class AttemptFinisher(Protocol):
    """Sends the ends of attempts to Kafka: `agents.completion.finisher`."""

    def started(self, job: Job) -> None:
        """Sends lifecycle.started, without waiting."""

    async def finish(self, job: Job, end: AttemptEnd) -> None:
        """Sends the outcome, or the next attempt, then the tombstone; returns when Kafka has acknowledged all of it."""


class AttemptCounter(Protocol):
    """Counts attempts: `agents.monitoring.stats`."""

    def count_attempt(self, job: Job, end: AttemptEnd) -> None: ...


class Worker:
    """`hand_over` may be called from any thread, all other methods from the app's event loop."""

    def __init__(
        self,
        slots: Slots,
        pool: Pool,
        finisher: AttemptFinisher,
        stats: AttemptCounter,
        run_times: RunTimes | None = None,
        is_ours: Callable[[Job], bool] = lambda _: True,
        is_cancelled: Callable[[str], bool] = lambda _: False,
    ) -> None:
        """`is_ours` and `is_cancelled` are called right before an attempt: both may have changed since the claim.

        `is_ours`: whether the claim is for the boot that the node has now.
        """
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
        """Gives the agent jobs that may start, one after another. The caller has reserved one slot for them."""
        assert self._loop is not None
        assert self._channel is not None
        self._loop.call_soon_threadsafe(self._channel.hand_over, jobs)

    async def drain(self, grace_s: float) -> bool:
        """Gives running attempts `grace_s` seconds, then kills them; returns whether Kafka knows all their ends."""
        deadline = time.monotonic() + grace_s
        while self._is_busy and (left_s := deadline - time.monotonic()) > 0:
            await self._wait_for_any(left_s)
        deadline = time.monotonic() + _REPORT_S
        while self._is_busy and time.monotonic() < deadline:
            detail = f"the node was drained, and the attempt did not end within {grace_s:g} s"
            self._pool.stop_running(Cause.DRAIN, detail)
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
                self._start(deque(jobs))
        finally:
            self._slots.set_open(False)
            for running in self._running:
                running.cancel()

    def _start(self, jobs: deque[Job]) -> None:
        """Runs the jobs; one slot is reserved for them."""
        running = asyncio.create_task(self._run(jobs))
        self._running.add(running)
        running.add_done_callback(self._running.discard)

    async def _run(self, jobs: deque[Job]) -> None:
        watching = asyncio.create_task(self._move_members_behind_slow_one(jobs)) if len(jobs) > 1 else None
        try:
            await self._pool.run_all(jobs, self._may_begin, self._on_end)
            while len(self._finishing) > _MAX_FINISHING:
                await asyncio.wait(self._finishing, return_when=asyncio.FIRST_COMPLETED)
        finally:
            if watching is not None:
                watching.cancel()
            self._slots.release()

    def _may_begin(self, job: Job) -> bool:
        if not self._is_ours(job):
            return False
        if self._is_cancelled(job.task.id):
            self._on_end(job, AttemptEnd.now(Cause.PROCESS_DEATH, "cancelled"))
            return False
        self._finisher.started(job)
        return True

    def _on_end(self, job: Job, end: AttemptEnd) -> None:
        if end.begun:
            self._stats.count_attempt(job, end)
        if end.cause is None:
            self._run_times.add_run(job.submission.name, (end.ended_ms - end.started_ms) / 1000)
        finishing = asyncio.create_task(self._finish(job, end))
        self._finishing.add(finishing)
        finishing.add_done_callback(self._finishing.discard)

    async def _finish(self, job: Job, end: AttemptEnd) -> None:
        error = await self._report(job, end)
        if error is not None:  # an unreadable result file, say: without a report it would count as running for ever
            detail = f"the node could not report how the attempt ended: {type(error).__name__}: {error}"
            await self._report(job, AttemptEnd.now(Cause.NODE_LOSS, detail, begun=end.begun))

    async def _report(self, job: Job, end: AttemptEnd) -> Exception | None:
        try:
            await self._finisher.finish(job, end)
        except Exception as e:
            log.exception("Attempt %d of task %s could not be finished", job.task.attempt, job.task.id)
            return e
        return None

    async def _move_members_behind_slow_one(self, jobs: deque[Job]) -> None:
        """Moves the members of a micro-batch that wait behind a slow one to the next slot that is released."""
        length_before = 0
        while len(jobs) != length_before:
            length_before = len(jobs)
            await asyncio.sleep(_SLOW_MEMBER_S)
        if not jobs:
            return
        rest, loop = deque(jobs), asyncio.get_running_loop()
        jobs.clear()

        def start() -> None:
            loop.call_soon_threadsafe(self._start, rest)

        self._slots.reserve_next(start)

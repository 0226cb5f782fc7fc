"""The worker agent: a Faust agent on an in-memory channel that runs jobs in the node's process pool.

The intake's thread hands it jobs whose claims are acknowledged and committed: one job, or a micro-batch of tiny ones
for one slot. While the agent runs, slots can be reserved; when it stops, running attempts are killed and the node
claims nothing more. Each attempt's end goes to the finisher, which sends it to Kafka. Whatever fails between the two,
each job ends: `JobGroup` knows the jobs of a slot that have no end yet, and they are reported as lost with the node.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import faust

from headrace.contract.states import Cause
from headrace.event_loop import call_in_loop

from ..execution.job import AttemptEnd, Job, Jobs, Key
from ..execution.pool import Pool
from ..execution.slots import Slots
from ..faust_kit.channel import HandOverChannel
from ..intake.micro_batching import RunTimes
from .job_group import JobGroup
from .reports import AttemptFinisher, Reports

log = logging.getLogger(__name__)

_REPORT_S = 15.0  # for the ends of killed attempts to reach Kafka in a drain; while Kafka is away the reaper does it
_SLOW_MEMBER_S = 0.2  # a member of a micro-batch that runs so long is not tiny: the others need not wait for it
_MAX_FINISHING = 512  # ended attempts that Kafka has not acknowledged; beyond it, slots wait for them


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
        self._running = dict[asyncio.Task[None], JobGroup]()
        self._reports = Reports(finisher)
        self._moving: list[Sequence[Job]] = []  # members of micro-batches that wait for a slot of their own

    def attach(self, app: faust.App) -> None:
        """Call once, in the event loop, before the app starts."""
        self._loop = asyncio.get_running_loop()
        self._channel = HandOverChannel(app)
        app.agent(self._channel, name="worker")(self._work)

    def hand_over(self, jobs: Jobs) -> None:
        """Gives the agent jobs that may start, one after another. The caller has reserved one slot for them."""
        assert self._channel is not None
        self._in_loop_or_reaped(jobs, self._channel.hand_over, jobs)

    def hand_over_lost(self, jobs: Jobs, detail: str) -> None:
        """Reports claimed jobs that could not be handed over: they go to their next attempt. From any thread."""
        for job in jobs:
            self._in_loop_or_reaped([job], self._reports.add, job, AttemptEnd.now(Cause.NODE_LOSS, detail))

    def _in_loop_or_reaped(self, jobs: Jobs, call: Callable[..., object], *arguments: Any) -> None:
        """The node may be over: its intake gets an answer from Kafka later than the drain waits for it."""
        if not call_in_loop(self._loop, call, *arguments):
            ids = ", ".join(job.task.id for job in jobs)
            log.warning("Tasks %s are left to the reaper: this node has ended", ids)

    def check(self) -> str | None:
        """For `/readyz`: why no task can start, or why ends of attempts cannot be reported; or None."""
        if not self._slots.is_open:
            return "is not running: no task can start"
        return self._reports.check()

    def held(self) -> set[Key]:
        """The jobs that run, wait in their slot, move to another one, or are being reported."""
        waiting = (group.waiting for group in self._running.values())
        held = {job.key for jobs in (*waiting, *self._moving, self._reports.jobs()) for job in jobs}
        return held | self._pool.held()

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
        return bool(self._slots.used or self._reports)

    async def _wait_for_any(self, timeout_s: float) -> None:
        either = {*self._running, *self._reports.tasks()} or {asyncio.create_task(asyncio.sleep(0.05))}
        await asyncio.wait(either, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)

    async def _work(self, stream: Any) -> None:
        self._slots.set_open(True)
        try:
            async for jobs in stream:
                self.start(jobs)
        finally:
            self._slots.set_open(False)
            for running in self._running:
                running.cancel()

    def start(self, jobs: Sequence[Job]) -> None:
        """Runs the jobs one after another; the caller has reserved one slot for them. In the event loop."""
        group = JobGroup(jobs)
        running = asyncio.create_task(self._run(group))
        self._running[running] = group
        running.add_done_callback(self._running.pop)

    async def _run(self, group: JobGroup) -> None:
        watching = asyncio.create_task(self._move_members_behind_slow_one(group)) if len(group.waiting) > 1 else None
        detail = "the worker agent was stopped"
        try:
            while group.waiting:
                detail = await self._run_waiting(group)
                self._report_lost(group, group.lost(), detail)
            while len(self._reports) > _MAX_FINISHING and (finishing := self._reports.tasks()):
                await asyncio.wait(finishing, return_when=asyncio.FIRST_COMPLETED)
        finally:
            if watching is not None:
                watching.cancel()
            self._report_lost(group, group.unended, detail)
            self._reports.flush()
            self._slots.release()

    async def _run_waiting(self, group: JobGroup) -> str:
        """Runs the group's jobs up to the first that the node cannot run; returns what went wrong with it, if any."""
        count = len(group.waiting)
        try:
            await self._pool.run_all(
                group.waiting, lambda job: self._may_begin(group, job), lambda job, end: self._on_end(group, job, end)
            )
        except Exception as e:
            log.exception("An attempt could not be run to its end")
            if len(group.waiting) == count:  # not one has been tried: the next call would not try one either
                group.waiting.clear()
            return f"the node could not run the attempt to its end: {type(e).__name__}: {e}"
        return "the node has lost sight of the attempt"

    def _may_begin(self, group: JobGroup, job: Job) -> bool:
        if not self._is_ours(job):
            group.drop(job)
            return False
        if self._is_cancelled(job.task.id):
            self._on_end(group, job, AttemptEnd.now(Cause.PROCESS_DEATH, "cancelled"))
            return False
        self._finisher.started(job)
        group.begun.add(job.key)
        return True

    def _report_lost(self, group: JobGroup, jobs: Sequence[Job], detail: str) -> None:
        """No part of the node has said how these jobs ended, and nothing of them runs any more."""
        for job in jobs:
            log.warning("Attempt %d of task %s is sent again: %s", job.task.attempt, job.task.id, detail)
            self._on_end(group, job, AttemptEnd.now(Cause.NODE_LOSS, detail, begun=job.key in group.begun))

    def _on_end(self, group: JobGroup, job: Job, end: AttemptEnd) -> None:
        group.drop(job)
        (self._reports.gather if group.is_batch else self._reports.add)(job, end)
        try:
            self._count(job, end)
        except Exception:
            log.exception("The end of an attempt of task %s is missing in the node's figures", job.task.id)

    def _count(self, job: Job, end: AttemptEnd) -> None:
        if end.begun:
            self._stats.count_attempt(job, end)
        if end.cause is None:
            self._run_times.add_run(job.submission.name, end.took_s)

    async def _move_members_behind_slow_one(self, group: JobGroup) -> None:
        """Moves the members of a micro-batch that wait behind a slow one to the next slot that is released."""
        length_before = 0
        while len(group.waiting) != length_before:
            length_before = len(group.waiting)
            await asyncio.sleep(_SLOW_MEMBER_S)
        if not group.waiting:
            return
        rest, loop = group.take_waiting(), asyncio.get_running_loop()
        self._moving.append(rest)

        def start() -> None:
            call_in_loop(loop, self._start_moved, rest)

        self._slots.reserve_next(start)

    def _start_moved(self, rest: Sequence[Job]) -> None:
        self._moving.remove(rest)
        self.start(rest)

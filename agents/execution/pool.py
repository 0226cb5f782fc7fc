"""The node's process pool: one slot for each attempt at a time, each slot with one child process.

The worker agent awaits `run_all(jobs)`; cancellations, drain and self-fencing end attempts through `cancel`,
`stop_running` and `kill_all`. `start` is called before the node's threads and sockets are made and raises UsageError
when the task kinds cannot be loaded; later the failure of a child shows only in the AttemptEnd of its own attempt.
"""

import asyncio
import itertools
import logging
import shutil
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from headrace.child.context import start_forkserver
from headrace.child.notifications import Born, NotificationSocket, Reported
from headrace.child.process_tree import kill_trees
from headrace.child.user import ChildUser
from headrace.child.zygote import Setup, parse_kinds
from headrace.contract.cluster import KindInfo, RunningAttempt
from headrace.contract.progress import Progress
from headrace.contract.states import Cause
from headrace.errors import UsageError
from headrace.event_loop import call_in_loop
from headrace.kind_imports import too_slow_import

from .attempt import IMPORT_S, Attempt
from .child import RunnerDied
from .cleanup import Cleanup
from .exclusive_run import WAIT_S, ExclusiveRun
from .in_flight import InFlight
from .job import AttemptEnd, Job, Key
from .orphans import Orphans
from .resource_limits import NO_LIMITS, Limits, enforce_limits
from .slot import PoolSlot
from .slot_health import SlotHealth

log = logging.getLogger(__name__)


class Pool:
    """All methods but `start`, `stop`, `kill_all` and `running` belong to the event loop that has called `listen`."""

    def __init__(
        self,
        tasks: str,
        slots: int,
        folder: Path,
        *,
        results_root: Path | None = None,
        children_lock: Path | None = None,
        import_path: Path | None = None,
        users: Sequence[ChildUser] = (),
        limits: Limits = NO_LIMITS,
        adopts: bool = False,
        import_s: float = IMPORT_S,
        alone_wait_s: float = WAIT_S,
    ) -> None:
        """`tasks`: the setting HEADRACE_TASKS. `folder` is the pool's own and is emptied. Logs go below `results_root`.

        `users`: the user of each slot's child; empty = the node's own user. `adopts`: see `Orphans`.
        `import_s`: how long importing the kinds may take. `alone_wait_s`: as `ExclusiveRun` has it.
        """
        self._folder = folder.resolve()
        self._results = self._folder / "results"
        self._on_progress: Callable[[Progress], None] = lambda _: None
        self.on_exclusive: Callable[[bool], None] = lambda _: None  # called as `ExclusiveRun` says
        self._notifications = NotificationSocket()
        self._setup = Setup(
            tasks,
            import_path=str((import_path or Path.cwd()).resolve()),
            slot=0,
            socket=self._notifications.address,
            lock_path=str(children_lock or ""),
            memory_mb=limits.memory_mb,
            scratch_mb=limits.scratch_mb,
        )
        self._users, self._limits, self._slot_count, self._import_s = users, limits, slots, import_s
        self._slots: list[PoolSlot] = []
        self._free: asyncio.LifoQueue[PoolSlot] = asyncio.LifoQueue()
        self._in_flight = InFlight()
        self._attempt_numbers = itertools.count(1)
        self._exclusive_run = ExclusiveRun(lambda is_exclusive: self.on_exclusive(is_exclusive), alone_wait_s)
        self.waits = self._exclusive_run.waits
        self._slot_health, self._orphans = SlotHealth(), Orphans(adopts)
        self._cleanup = Cleanup(self._orphans, self._slot_health, self._live_children, results_root)
        self._enforcing: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def start(self) -> list[KindInfo]:
        """Starts all children; returns the kinds that they have loaded. UsageError when they cannot load them."""
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(mode=0o711, parents=True)
        self._results.mkdir(mode=0o700)
        self._orphans.start()
        start_forkserver()
        setups = [replace(self._setup, user=user) for user in self._users] or [self._setup] * self._slot_count
        on_death = self._cleanup.renew_child
        self._slots = [PoolSlot(number, setup, self._folder, on_death) for number, setup in enumerate(setups)]
        for slot in self._slots:
            self._free.put_nowait(slot)
        try:
            kinds, notes = parse_kinds(self._describe_kinds())
        except UsageError:
            self.stop()
            raise
        for note in notes:
            log.warning("%s", note)
        return kinds

    def _describe_kinds(self) -> bytes:
        """The first child's answer. A child that dies of the import is not replaced: the next would die of it too."""
        setting = f"HEADRACE_TASKS: {self._setup.tasks or 'the examples'}"
        try:
            return self._slots[0].child.describe_kinds(self._import_s)
        except RunnerDied:
            raise UsageError(f"{setting} cannot be imported: the import ended the process") from None
        except TimeoutError:
            raise UsageError(f"{setting} cannot be imported: {too_slow_import(self._import_s)}") from None

    def listen(self, on_progress: Callable[[Progress], None] = lambda _: None) -> None:
        """Joins the running event loop: from now on reads what children report and tasks print."""
        self._on_progress = on_progress
        self._loop = loop = asyncio.get_running_loop()
        loop.add_reader(self._notifications.fileno(), self._read_notifications)
        for slot in self._slots:
            slot.attach(loop)
        self._enforcing = loop.create_task(enforce_limits(self._limits, self._in_flight.attempts))

    async def run(self, job: Job) -> AttemptEnd:
        """Runs one attempt, in the first free slot. Cancelling the call kills the attempt's processes too."""
        ends: list[AttemptEnd] = []
        await self.run_all(deque([job]), lambda _: True, lambda _, end: ends.append(end))
        return ends[0]

    async def run_all(
        self, jobs: deque[Job], may_begin: Callable[[Job], bool], on_end: Callable[[Job, AttemptEnd], None]
    ) -> None:
        """Runs the attempts of all jobs in one slot, one after another, each with its own end and limits.

        `may_begin` is called right before each attempt: False skips it. `on_end` is called for each that was not
        skipped. A job leaves the deque when its turn comes; the caller may remove others and run them elsewhere.
        """
        for job in jobs:
            self._in_flight.add_waiting(job)
        attempts: list[Attempt] = []  # not cleaned up yet
        slot: PoolSlot | None = None
        try:
            slot = await self._free.get()
            while jobs:
                await self._run_next(jobs, slot, may_begin, on_end, attempts)
        finally:
            for job in jobs:
                self._in_flight.remove_waiting(job)
            if slot is not None:
                await self._free_slot(slot, attempts)

    async def _run_next(
        self,
        jobs: deque[Job],
        slot: PoolSlot,
        may_begin: Callable[[Job], bool],
        on_end: Callable[[Job, AttemptEnd], None],
        attempts: list[Attempt],
    ) -> None:
        """Runs the next job. After an out-of-memory kill beside other attempts it runs once more, alone, uncharged."""
        job, exclusive, has_begun, runs_again = jobs.popleft(), False, False, True
        while runs_again:
            waiting = self._in_flight.add_waiting(job)
            try:
                await self._slot_health.wait_healthy(slot, waiting.is_stopped)
                lease = await self._exclusive_run.acquire(job if exclusive else None)
            finally:
                self._in_flight.remove_waiting(job)
            runs_again = False
            try:
                if waiting.stopped is not None:
                    on_end(job, AttemptEnd.now(*waiting.stopped, begun=has_begun))
                    return
                if not has_begun and not may_begin(job):
                    return
                has_begun = True
                end = await self._run_attempt(job, slot, attempts)
                runs_again = end.oom_victim and lease.ran_beside_others and not exclusive
                if runs_again:
                    self._in_flight.add_waiting(job)  # before the next await: a cancel must always find the job
                else:
                    on_end(job, lease.explain(end))
                await self._cleanup.clean_up(attempts)
            finally:
                lease.release()
            if runs_again:
                log.warning("Memory ran out while task %s ran beside others: it runs again, alone", job.task.id)
                exclusive = True

    async def _run_attempt(self, job: Job, slot: PoolSlot, attempts: list[Attempt]) -> AttemptEnd:
        try:
            attempt = self._new_attempt(job, slot)
            attempts.append(attempt)
            try:
                end = await attempt.run()
                if attempt.needs_new_child:  # nothing of the attempt may be alive when its end is reported
                    await self._cleanup.kill_orphans()
                await self._cleanup.keep_log(attempt)
                return end
            finally:
                self._in_flight.remove_running(job)
        except Exception as e:  # a full disk, no more processes: the node's fault, and the task is not charged
            log.exception("Task %s could not be run", job.task.id)
            self._slot_health.report_failure(slot, e)
            detail = f"the node could not run the attempt: {type(e).__name__}: {e}"
            return AttemptEnd.now(Cause.NODE_LOSS, detail, begun=True)

    def _new_attempt(self, job: Job, slot: PoolSlot) -> Attempt:
        # The number makes the name unique: the files of the attempt's first run may not be removed yet, and a copy of
        # the task from another partition may run at the same time.
        # It is short because tasks make sockets below it, whose paths have 107 characters at most.
        name = f"{job.task.id[:8]}-{job.task.attempt}-{next(self._attempt_numbers)}"
        slot.output.take_tail()
        attempt = Attempt(job, slot, slot.make_directory(name), self._results / name, self._import_s)
        self._in_flight.add_running(attempt)
        return attempt

    def cancel(self, task_id: str) -> bool:
        """Kills the task's attempt, or stops it before it begins; returns whether the pool had one."""
        return self._in_flight.stop_task(task_id, Cause.PROCESS_DEATH, "cancelled")

    def stop_running(self, cause: Cause, detail: str) -> None:
        """Kills every attempt: at the end of a drain, or when the node has lost its lease."""
        self._in_flight.stop_all(cause, detail)

    def kill_all(self) -> None:
        """Self-fencing, from any thread: kills every child. Returns when all are dead."""
        kill_trees({pid for slot in self._slots for pid in slot.own_pids()})  # first: nothing may keep it from that
        call_in_loop(self._loop, self.stop_running, Cause.NODE_LOSS, "the node was frozen for longer than its lease")

    def held(self) -> set[Key]:
        """The jobs that wait for their turn or run."""
        return self._in_flight.keys()

    def running(self) -> tuple[RunningAttempt, ...]:
        """The attempts that run now, for heartbeats and the stats page."""
        return self._in_flight.running()

    def check(self) -> str | None:
        """For `/readyz`: why attempts cannot begin, or None."""
        return self._slot_health.check()

    async def close(self) -> None:
        """Leaves the event loop and ends all children."""
        if self._enforcing is not None:
            self._enforcing.cancel()
        await self._cleanup.close()
        await self._slot_health.close()
        asyncio.get_running_loop().remove_reader(self._notifications.fileno())
        for slot in self._slots:
            slot.detach()
        await asyncio.to_thread(self.stop)

    def stop(self) -> None:
        """Ends all children and their descendants, and removes the pool's folder."""
        for slot in self._slots:
            slot.stop()
        self._slots.clear()
        self._notifications.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    async def _free_slot(self, slot: PoolSlot, attempts: list[Attempt]) -> None:
        """After a failed or cancelled call the slot is free only when its attempt is cleaned up, and the call ends
        only then: the caller sends the task again, and nothing of it may run here any more."""
        if not attempts:
            self._free.put_nowait(slot)
            return

        async def clean_up_first() -> None:
            try:
                await self._cleanup.clean_up(attempts)
            finally:
                self._free.put_nowait(slot)

        await asyncio.shield(self._cleanup.in_background(clean_up_first()))

    def _live_children(self) -> set[int]:
        """Pids of all children, those included whose Born notification has just come."""
        self._read_notifications()
        return {pid for slot in self._slots for pid in slot.pids}

    def _read_notifications(self) -> None:
        for pid, news in self._notifications.read_notifications():
            match news:
                case Born(slot=number, parent=parent) if self._accept_birth(news):
                    self._slots[number].note_birth(pid)
                    self._orphans.note_parent(parent)
                case Reported() if self._in_flight.is_running(news.id, news.attempt):
                    self._on_progress(Progress(news.id, news.attempt, min(1.0, max(0.0, news.fraction)), news.message))

    def _accept_birth(self, born: Born) -> bool:
        return 0 <= born.slot < len(self._slots) and self._slots[born.slot].accept_birth(born.token)

"""The node's process pool: as many slots as the node has, each with one child that runs one attempt after another.

The worker agent awaits `run_all(jobs)`; control, drain and self-fencing end attempts through `cancel` and
`stop_running`. `start` is called before the node's threads and sockets are made and raises UsageError when the task
kinds cannot be loaded; later no failure of a child gets further than the AttemptEnd of its own attempt.
"""

import asyncio
import itertools
import logging
import os
import shutil
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from agents.execution.attempt import Attempt
from agents.execution.child import ChildDied
from agents.execution.exclusive_run import ExclusiveRun
from agents.execution.job import AttemptEnd, Job, Key
from agents.execution.orphans import Orphans
from agents.execution.resource_limits import NO_LIMITS, Limits, anonymous_bytes, keep_to_limits
from agents.execution.slot import PoolSlot
from agents.execution.slot_health import SlotHealth
from headrace.child.attempt import Setup, parse_kinds
from headrace.child.context import start_forkserver
from headrace.child.notifications import Born, NotificationSocket, Reported
from headrace.child.process_tree import kill_trees
from headrace.child.user import ChildUser
from headrace.contract.cluster import KindInfo, RunningAttempt
from headrace.contract.progress import Progress
from headrace.contract.states import Cause
from headrace.errors import UsageError
from headrace.kafka.client import log_throttled
from headrace.storage.attempt_log import keep_log

log = logging.getLogger(__name__)

_DEATH_S = 5.0  # a killed child is seen dead at once, unless the kernel cannot let it go
_LOAD_S = 60.0  # importing the task kinds, machine-learning packages included


class _Ticket:
    """A job that waits for its turn, and may be stopped before it has begun."""

    stopped: tuple[Cause, str] | None = None

    def is_stopped(self) -> bool:
        return self.stopped is not None

    def stop(self, cause: Cause, detail: str) -> None:
        self.stopped = cause, detail


class Pool:
    """All methods but `start` and `stop` belong to the event loop that has called `listen`."""

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
    ) -> None:
        """`folder` is the pool's own and is emptied; attempts' logs are kept below `results_root`.

        `users`: whom the child of each slot becomes; none = children stay the node's own user. `adopts`: see `Orphans`.
        """
        self._folder = folder.resolve()
        self._results = self._folder / "results"
        self._logs = results_root
        self._on_progress: Callable[[Progress], None] = lambda _: None
        self._news = NotificationSocket()
        self._setup = Setup(
            tasks,
            str((import_path or Path.cwd()).resolve()),
            0,
            self._news.address,
            str(children_lock or ""),
            None,
            limits.memory_mb,
            limits.scratch_mb,
        )
        self._users, self._limits, self._strays = users, limits, Orphans(adopts)
        self._watching: asyncio.Task[None] | None = None
        self._count = slots
        self._slots: list[PoolSlot] = []
        self._free: asyncio.LifoQueue[PoolSlot] = asyncio.LifoQueue()
        self._attempts: dict[Key, Attempt] = {}
        self._numbers = itertools.count(1)
        self._company = ExclusiveRun(lambda asked: self.on_exclusive(asked))
        self._fitness = SlotHealth()
        self.on_exclusive: Callable[[bool], None] = lambda _: None  # told when an attempt asks to be alone, and is done
        self._waiting: dict[Key, _Ticket] = {}  # for the jobs before them in their slot, or for a slot
        self._loop: asyncio.AbstractEventLoop | None = None
        self._chores = set[asyncio.Task[None]]()

    def start(self) -> list[KindInfo]:
        """Makes all children; returns the kinds that they can run. UsageError says why there are none."""
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(mode=0o711, parents=True)
        self._results.mkdir(mode=0o700)
        self._strays.begin()
        start_forkserver()
        setups = [replace(self._setup, user=user) for user in self._users] or [self._setup] * self._count
        self._slots = [PoolSlot(number, setup, self._folder, self._bereft) for number, setup in enumerate(setups)]
        for slot in self._slots:
            self._free.put_nowait(slot)
        try:
            return parse_kinds(self._described())
        except UsageError:
            self.stop()
            raise

    def _described(self) -> bytes:
        """The answer of the first child. One that ends while it imports the kinds would be made again for ever."""
        try:
            return self._slots[0].child.kinds(_LOAD_S)
        except ChildDied:
            raise UsageError(f"{self._tasks_setting} cannot be imported: the import ended the process") from None
        except TimeoutError:
            raise UsageError(
                f"{self._tasks_setting} cannot be imported: it has not ended after {_LOAD_S:.0f} s"
            ) from None

    @property
    def _tasks_setting(self) -> str:
        return f"HEADRACE_TASKS: {self._setup.tasks or 'the examples'}"

    def listen(self, on_progress: Callable[[Progress], None] = lambda _: None) -> None:
        """Joins the running event loop: begins to take in what children tell and tasks print."""
        self._on_progress = on_progress
        self._loop = loop = asyncio.get_running_loop()
        loop.add_reader(self._news.fileno(), self._hear)
        for slot in self._slots:
            slot.listen(loop)
        self._watching = loop.create_task(keep_to_limits(self._limits, self._attempts.values))

    async def run(self, job: Job) -> AttemptEnd:
        """One attempt. Waits for a slot if none is free. Cancelling it kills the attempt's processes as well."""
        ends: list[AttemptEnd] = []
        await self.run_all(deque([job]), lambda _: True, lambda _, end: ends.append(end))
        return ends[0]

    async def run_all(
        self, jobs: deque[Job], begins: Callable[[Job], bool], ended: Callable[[Job, AttemptEnd], None]
    ) -> None:
        """The attempts of all jobs in one slot, one after another, each with its own end, limits and blame.

        `begins` is asked right before each: False passes it over. `ended` is told of each that was not. Jobs leave the
        deque as their turn comes; those that the caller has taken out meanwhile can be run elsewhere.
        """
        for job in jobs:
            self._waiting.setdefault(job.key, _Ticket())
        lost: list[Attempt] = []  # those whose child may not have been cleared away yet
        slot: PoolSlot | None = None
        try:
            slot = await self._free.get()
            while jobs:
                await self._run_next(jobs, slot, begins, ended, lost)
        finally:
            for job in jobs:
                self._waiting.pop(job.key, None)
            if slot is not None:
                self._give_back(slot, lost)

    async def _run_next(
        self,
        jobs: deque[Job],
        slot: PoolSlot,
        begins: Callable[[Job], bool],
        ended: Callable[[Job, AttemptEnd], None],
        lost: list[Attempt],
    ) -> None:
        """One that the kernel kills for want of memory beside others is run again alone, and that end counts."""
        job, alone, begun = jobs.popleft(), False, False
        while True:
            ticket = self._waiting.setdefault(job.key, _Ticket())
            try:
                await self._fitness.proven(slot, ticket.is_stopped)
                stay = await self._company.enter(alone)
            finally:
                self._waiting.pop(job.key, None)
            again = False
            try:
                if ticket.stopped is not None:
                    ended(job, AttemptEnd.now(*ticket.stopped, begun=begun))
                    return
                if not begun and not begins(job):
                    return
                begun = True
                end = await self._attempt(job, slot, lost)
                again = end.chosen and stay.in_company
                if again:
                    self._waiting[job.key] = _Ticket()  # at once: it can be cancelled at any moment
                else:
                    ended(job, end)
                await self._clear_up(lost)
            finally:
                stay.leave()
            if not again:
                return
            log.warning("Task %s was killed for want of memory beside others: it runs again, alone", job.task.id)
            alone = True

    async def _attempt(self, job: Job, slot: PoolSlot, lost: list[Attempt]) -> AttemptEnd:
        try:
            attempt = self._new_attempt(job, slot)
            lost.append(attempt)
            try:
                end = await attempt.run()
                if attempt.child_lost:  # all of it is dead before anybody is told
                    await asyncio.to_thread(self._strays.kill, self._children)
                await self._keep_log(attempt)
                return end
            finally:
                del self._attempts[job.key]
        except Exception as e:  # a full disk, no more processes: the node's fault, not the task's
            log.exception("Task %s could not be run", job.task.id)
            self._fitness.doubt(slot, e)
            return AttemptEnd.now(Cause.NODE_LOSS, f"the node could not run it: {type(e).__name__}: {e}", begun=True)

    def _new_attempt(self, job: Job, slot: PoolSlot) -> Attempt:
        # Unique: what a first run beside others left may still be on its way out, and a copy may run beside this one.
        name = f"{job.task.id}-{job.task.attempt}-{next(self._numbers)}"
        scratch = slot.new_scratch(name)
        slot.output.take()
        attempt = Attempt(job, slot, scratch, self._results / name)
        if job.kind.memory_mb or self._limits.memory_mb:
            attempt.memory_before = anonymous_bytes([slot.child.pid])
        self._attempts[job.key] = attempt
        return attempt

    def cancel(self, task_id: str) -> bool:
        """Kills the task's attempt if it runs here, and says whether it does."""
        found: list[Attempt | _Ticket] = [a for (running, *_), a in self._attempts.items() if running == task_id]
        found += [t for (waiting, *_), t in self._waiting.items() if waiting == task_id]
        for attempt in found:
            attempt.stop(Cause.PROCESS_DEATH, "cancelled")
        return bool(found)

    def stop_running(self, cause: Cause, detail: str) -> None:
        """Kills every attempt: at the end of a drain, or when the node has lost its lease."""
        found: list[Attempt | _Ticket] = [*self._attempts.values(), *self._waiting.values()]
        for attempt in found:
            attempt.stop(cause, detail)

    def kill_all(self) -> None:
        """Self-fencing, from any thread: nothing that runs here is ours any more. Returns when all of it is dead."""
        if self._loop is not None:
            why = "the node was frozen past its lease"
            self._loop.call_soon_threadsafe(self.stop_running, Cause.NODE_LOSS, why)
        kill_trees({pid for slot in self._slots for pid in slot.pids})

    def running(self) -> tuple[RunningAttempt, ...]:
        return tuple(a.running for a in list(self._attempts.values()))

    def check(self) -> str | None:
        """For `/readyz`: why attempts cannot begin."""
        return self._fitness.check()

    async def close(self) -> None:
        """Leaves the event loop and ends all children."""
        if self._watching is not None:
            self._watching.cancel()
        while self._chores:
            await asyncio.wait(self._chores)
        await self._fitness.close()
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._news.fileno())
        for slot in self._slots:
            slot.unlisten()
        await asyncio.to_thread(self.stop)

    def stop(self) -> None:
        """Ends all children and what they have started, and removes the pool's folder."""
        for slot in self._slots:
            slot.stop()
        self._slots.clear()
        self._news.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _hear(self) -> None:
        for pid, news in self._news.read_notifications():
            match news:
                case Born(slot=number, parent=parent) if self._is_birth(news):
                    self._slots[number].born = pid
                    self._strays.born(parent)
                case Reported() if any(key[:2] == (news.id, news.attempt) for key in self._attempts):
                    self._on_progress(Progress(news.id, news.attempt, min(1.0, max(0.0, news.fraction)), news.message))

    def _is_birth(self, news: Born) -> bool:
        return 0 <= news.slot < len(self._slots) and self._slots[news.slot].is_birth(news.token)

    async def _keep_log(self, attempt: Attempt) -> None:
        task, printed = attempt.job.task, attempt.slot.output.take()
        if printed and self._logs:
            try:
                await asyncio.to_thread(keep_log, self._logs, task.id, task.attempt, printed)
            except OSError as e:
                log_throttled("attempt log", "What a task printed cannot be kept in %s: %s", self._logs, e)

    def _bereft(self, slot: PoolSlot) -> None:
        """A slot's child has died: the next one is made now, not when an attempt waits for it."""
        self._chore(self._renew(slot))

    async def _renew(self, slot: PoolSlot) -> None:
        try:
            await slot.ready()
        except Exception as e:
            log.exception("Slot %d has no child", slot.number)
            self._fitness.doubt(slot, e)

    async def _clear_up(self, lost: list[Attempt]) -> None:
        """Nothing that an attempt has started or left on disk may outlive it; then its slot is fit for the next."""
        for attempt in list(lost):
            try:
                if attempt.child_lost and attempt.child is not None:
                    await asyncio.to_thread(kill_trees, [attempt.child.pid])
                    await asyncio.to_thread(self._strays.kill, self._children)
                    await asyncio.wait_for(attempt.child.death.wait(), _DEATH_S)
                    await attempt.slot.ready()
            except Exception as e:
                log.exception("Slot %d could not be made ready again in order", attempt.slot.number)
                self._fitness.doubt(attempt.slot, e)
            lost.remove(attempt)
            try:
                os.rmdir(attempt.scratch)  # most attempts leave it empty
            except OSError:
                self._chore(asyncio.to_thread(shutil.rmtree, attempt.scratch, ignore_errors=True))

    def _give_back(self, slot: PoolSlot, lost: list[Attempt]) -> None:
        """After a job that its caller has given up, the slot is free when nothing of the job is left."""
        if not lost:
            self._free.put_nowait(slot)
            return

        async def clear_up() -> None:
            await self._clear_up(lost)
            self._free.put_nowait(slot)

        self._chore(clear_up())

    def _children(self) -> set[int]:
        self._hear()
        return {pid for slot in self._slots for pid in slot.pids}

    def _chore(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._chores.add(task)
        task.add_done_callback(self._chores.discard)

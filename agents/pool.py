"""The node's process pool: as many slots as the node has, each with one child that runs one attempt after another.

The worker agent awaits `run(job)`; control, drain and self-fencing end attempts through `cancel` and `stop_running`.
`start` is called before the node's threads and sockets are made and raises UsageError when the task kinds cannot be
loaded; later no failure of a child gets further than the AttemptEnd of its own attempt.
"""

import asyncio
import logging
import os
import shutil
import time
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Future, wait
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import replace
from pathlib import Path
from typing import Any

from pebble import ProcessExpired

from agents.attempt import Attempt
from agents.company import Company, Stay
from agents.limits import NO_LIMITS, Limits, anonymous_bytes, keep_to_limits
from agents.pool_slot import PoolSlot
from agents.work import AttemptEnd, Job
from headrace.attempt_log import keep_log
from headrace.child import Setup, kinds_of
from headrace.child_news import Begun, Born, NewsSocket, Reported
from headrace.child_user import ChildUser
from headrace.cluster import KindInfo, Running
from headrace.errors import UsageError
from headrace.kafka import log_throttled
from headrace.lean_context import start_forkserver
from headrace.messages import Progress
from headrace.process_tree import kill_trees, processes
from headrace.states import Cause

log = logging.getLogger(__name__)

_LOAD_S = 60.0  # importing the task kinds, machine-learning packages included


class _Ticket:
    """A job that waits for its slot, and may be stopped before it has begun."""

    stopped: tuple[Cause, str] | None = None

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
    ) -> None:
        """`folder` is the pool's own and is emptied; attempts' logs are kept below `results_root`.

        `users`: whom the child of each slot becomes; none = children stay the node's own user.
        """
        self._folder = folder.resolve()
        self._results = self._folder / "results"
        self._logs = results_root
        self._on_progress: Callable[[Progress], None] = lambda _: None
        self._news = NewsSocket()
        self._setup = Setup(
            tasks, str((import_path or Path.cwd()).resolve()), 0, self._news.address, str(children_lock or ""),
            None, limits.memory_mb, limits.scratch_mb,
        )  # fmt: skip
        self._users, self._limits = users, limits
        self._watching: asyncio.Task[None] | None = None
        self._count = slots
        self._slots: list[PoolSlot] = []
        self._free: asyncio.LifoQueue[PoolSlot] = asyncio.LifoQueue()
        self._attempts: dict[tuple[str, int], Attempt] = {}
        self._company = Company(lambda asked: self.on_alone(asked))
        self.on_alone: Callable[[bool], None] = lambda _: None  # told when an attempt asks to be alone, and is done
        self._waiting: dict[str, _Ticket] = {}  # by task id, for a slot that is being made ready again
        self._forkserver = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._chores = set[asyncio.Task[None]]()

    def start(self) -> list[KindInfo]:
        """Makes all children; returns the kinds that they can run. UsageError says why there are none."""
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(mode=0o711, parents=True)
        self._results.mkdir(mode=0o700)
        start_forkserver()
        setups = [replace(self._setup, user=user) for user in self._users] or [self._setup] * self._count
        self._slots = [PoolSlot(number, setup, self._folder) for number, setup in enumerate(setups)]
        asked = self._slots[0].describe()
        for slot in self._slots:
            slot.start()
            self._free.put_nowait(slot)
        try:
            return kinds_of(self._described(asked))
        except UsageError:
            self.stop()
            raise

    def _described(self, asked: "Future[bytes]") -> bytes:
        """The answer of the first child. One that ends while it imports the kinds would be made again for ever."""
        deadline = time.monotonic() + _LOAD_S
        born = set[int]()
        while not wait([asked], 0.02).done:
            self._hear()
            born |= {self._slots[0].pid} - {0}
            ended = len(born) > 1 or any(not os.path.exists(f"/proc/{pid}") for pid in born)
            if ended and not wait([asked], 0.5).done:
                break
            if time.monotonic() > deadline:
                raise UsageError(f"{self._tasks_setting} cannot be imported: it has not ended after {_LOAD_S:.0f} s")
        try:
            return asked.result(0)
        except (ProcessExpired, RuntimeError, FutureTimeout):
            raise UsageError(f"{self._tasks_setting} cannot be imported: the import ended the process") from None

    @property
    def _tasks_setting(self) -> str:
        return f"HEADRACE_TASKS: {self._setup.tasks or 'the examples'}"

    def listen(self, on_progress: Callable[[Progress], None] = lambda _: None) -> None:
        """Joins the running event loop: begins to take in what children tell and tasks print."""
        self._on_progress = on_progress
        self._loop = loop = asyncio.get_running_loop()
        loop.add_reader(self._news.fileno(), self._hear)
        for slot in self._slots:
            loop.add_reader(slot.output.fileno(), slot.output.read)
        self._watching = loop.create_task(keep_to_limits(self._limits, self._attempts.values))

    async def run(self, job: Job) -> AttemptEnd:
        """One attempt. Waits for a slot if none is free. Cancelling it kills the attempt's processes as well.

        One that the kernel kills for want of memory while others run here is run again alone, and that end counts.
        """
        end, in_company = await self._run(job)
        if end.chosen and in_company:
            log.warning("Task %s was killed for want of memory beside others: it runs again, alone", job.task.id)
            end, _ = await self._run(job, alone=True)
        return end

    async def _run(self, job: Job, alone: bool = False) -> tuple[AttemptEnd, bool]:
        """How it ended, and whether anything else ran on the node meanwhile."""
        ticket = self._waiting[job.task.id] = _Ticket()
        try:
            slot, stay = await self._admitted(alone)
        finally:
            del self._waiting[job.task.id]
        if ticket.stopped is not None:
            self._free.put_nowait(slot)
            stay.leave()
            now = time.time_ns() // 1_000_000
            return AttemptEnd(now, now, cause=ticket.stopped[0], detail=ticket.stopped[1]), stay.in_company
        name = f"{job.task.id}-{job.task.attempt}" + "-alone" * alone  # what the first left may still be on its way out
        scratch = slot.own_directory(name)
        slot.output.take()
        attempt = Attempt(job, slot, scratch, self._results / name, self._hear)
        if job.kind.memory_mb or self._limits.memory_mb:
            attempt.memory_before = anonymous_bytes([slot.pid])
        self._attempts[attempt.key] = attempt
        try:
            end = await attempt.run()
            await self._keep_log(attempt, slot.output.take())
            return end, stay.in_company
        finally:
            del self._attempts[attempt.key]
            stay.leave()
            self._chore(self._tidy(attempt, slot, scratch))

    async def _admitted(self, alone: bool) -> tuple[PoolSlot, Stay]:
        stay = await self._company.enter(alone)
        try:
            return await self._free.get(), stay
        except BaseException:
            stay.leave()
            raise

    def cancel(self, task_id: str) -> bool:
        """Kills the task's attempt if it runs here, and says whether it does."""
        found: list[Attempt | _Ticket] = [a for (running, _), a in self._attempts.items() if running == task_id]
        found += [self._waiting[task_id]] if task_id in self._waiting else []
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
        attempts = {attempt.pid for attempt in list(self._attempts.values())}
        kill_trees((attempts | {slot.pid for slot in self._slots}) - {0})

    def running(self) -> tuple[Running, ...]:
        return tuple(a.running for a in list(self._attempts.values()))

    async def close(self) -> None:
        """Leaves the event loop and ends all children."""
        if self._watching is not None:
            self._watching.cancel()
        while self._chores:
            await asyncio.wait(self._chores)
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._news.fileno())
        for slot in self._slots:
            loop.remove_reader(slot.output.fileno())
        await asyncio.to_thread(self.stop)

    def stop(self) -> None:
        """Ends all children and what they have started, and removes the pool's folder."""
        for slot in self._slots:
            slot.stop()
        self._slots.clear()
        self._news.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _hear(self) -> None:
        for pid, news in self._news.read():
            match news:
                case Born(slot=number, parent=parent) if number < len(self._slots):
                    self._slots[number].pid, self._forkserver = pid, parent
                case Begun(id=task_id, attempt=number) if attempt := self._attempts.get((task_id, number)):
                    attempt.begun(pid)
                case Reported() if (news.id, news.attempt) in self._attempts:
                    self._on_progress(Progress(news.id, news.attempt, min(1.0, max(0.0, news.fraction)), news.message))

    async def _keep_log(self, attempt: Attempt, printed: bytes) -> None:
        if printed and self._logs:
            try:
                await asyncio.to_thread(keep_log, self._logs, *attempt.key, printed)
            except OSError as e:
                log_throttled("attempt log", "What a task printed cannot be kept in %s: %s", self._logs, e)

    async def _tidy(self, attempt: Attempt, slot: PoolSlot, scratch: Path) -> None:
        """Makes the slot fit for the next attempt and gives it back; then removes what the last one left on disk."""
        try:
            if attempt.child_lost:
                await asyncio.to_thread(kill_trees, [attempt.pid] if attempt.pid else [])
                await asyncio.to_thread(self._kill_strays)
                await asyncio.to_thread(attempt.recover_slot)
        except Exception:
            log.exception("Slot %d could not be made ready again in order", slot.number)
        finally:
            self._free.put_nowait(slot)
        try:
            os.rmdir(scratch)  # most attempts leave it empty
        except OSError:
            await asyncio.to_thread(shutil.rmtree, scratch, ignore_errors=True)

    def _kill_strays(self) -> None:
        """Kills what a dead child's task has left behind in sessions of its own: the forkserver has adopted it."""
        seen = processes()
        if self._forkserver not in seen:
            return
        home = seen[self._forkserver].session
        strays = {p.pid for p in seen.values() if p.parent == self._forkserver and p.session != home}
        self._hear()  # a child tells of its birth before it leaves the forkserver's session: all we saw are known now
        kill_trees(strays - {slot.pid for slot in self._slots})

    def _chore(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._chores.add(task)
        task.add_done_callback(self._chores.discard)

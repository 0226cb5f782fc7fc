"""One attempt of a task in a slot of the pool: from its request to how it ended, whatever happens to its child.

Made by `agents.execution.pool`, in the event loop. The end comes from one of three: the child's answer, the child's
death, or `stop` (time limit, cancel, drain, fencing), which kills the child's whole tree before the end is told to
anybody.
"""

import asyncio
import contextlib
import os
import signal
import stat
import time
from pathlib import Path
from typing import Any

import orjson

from agents.execution.child import Child, ChildDied
from agents.execution.job import AttemptEnd, Job
from agents.execution.oom import oom_kills
from agents.execution.slot import PoolSlot
from headrace.child.process_tree import kill_trees
from headrace.child.protocol import Ended, Request
from headrace.child.user import ChildUser
from headrace.contract.cluster import RunningAttempt
from headrace.contract.states import Cause

_START_S = 60.0  # a child that has not begun by then never will: importing the kinds hangs
_NEVER_BEGAN = f"the process did not begin within {_START_S:.0f} s: do the task kinds hang while they are imported?"
_STARTS = 3  # an idle child may be killed once, hardly twice


class Attempt:
    """`await run()` once; `stop` ends it from outside."""

    def __init__(self, job: Job, slot: PoolSlot, scratch: Path, result_file: Path) -> None:
        self.job, self.slot, self.scratch = job, slot, scratch
        self.child: Child | None = None  # that it was given to
        self.child_lost = True  # until it has answered
        self._has_begun = False
        self.memory_before = 0  # bytes that the idle child took, where its memory is limited
        self._result_file = result_file  # where no child can reach it
        self._handed_in = slot.results / result_file.name  # where the child puts it
        self._started_ms = _now_ms()
        self._loop = asyncio.get_running_loop()
        self._stopped: asyncio.Future[tuple[Cause, str]] = self._loop.create_future()
        self._limit = self._loop.call_later(_START_S, self.stop, Cause.PROCESS_DEATH, _NEVER_BEGAN)
        self._oom_kills = oom_kills()

    @property
    def pid(self) -> int:
        """Of the child that is at it; 0 before it has begun."""
        return self.child.pid if self.child is not None and self._has_begun else 0

    @property
    def running(self) -> RunningAttempt:
        return RunningAttempt(self.job.task.id, self.job.submission.name, self.job.task.attempt, self._started_ms)

    def _begun(self) -> None:
        """The child has taken it up: from now the time limit counts, and its death is the attempt's."""
        self._has_begun, self._started_ms = True, _now_ms()
        self._limit.cancel()
        limit_s = self.job.timeout_s
        self._limit = self._loop.call_later(
            limit_s, self.stop, Cause.TIMEOUT, f"the time limit of {limit_s:g} s has passed"
        )

    def stop(self, cause: Cause, detail: str) -> None:
        """Ends the attempt with that cause, unless it has ended."""
        if not self._stopped.done():
            self._stopped.set_result((cause, detail))

    async def run(self) -> AttemptEnd:
        """How it ended. Afterwards nothing that it started is alive, but for a child that has answered."""
        try:
            for _ in range(_STARTS):
                answered = await self._ask()
                if self._has_begun or self._stopped.done() or not answered.exception():
                    break
                # The slot's idle child was killed: nothing of the task has run, and it is not to be charged.
            if answered.done() and not answered.exception():
                self.child_lost = False
                return self._answered(answered.result())
            return await self._cut_short(answered)
        finally:
            self._limit.cancel()

    async def _ask(self) -> "asyncio.Future[Ended]":
        """Until the child has answered, or has died, or must stop."""
        self.child = child = await self.slot.ready()
        answered = child.ask(self._request(), self._begun)
        either: set[asyncio.Future[Any]] = {answered, self._stopped}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        return answered

    async def _cut_short(self, answered: "asyncio.Future[Ended]") -> AttemptEnd:
        await asyncio.to_thread(kill_trees, [self.child.pid] if self.child else [])
        ended_ms = _now_ms()
        with contextlib.suppress(OSError):
            self._handed_in.unlink()
        cause, detail = self._stopped.result() if self._stopped.done() else self._death(answered)
        chosen = cause is Cause.OUT_OF_MEMORY and not self._stopped.done()
        return AttemptEnd(self._started_ms, ended_ms, cause=cause, detail=detail, chosen=chosen)

    def _death(self, answered: "asyncio.Future[Ended]") -> tuple[Cause, str]:
        error = answered.exception()
        code = error.exit_code if isinstance(error, ChildDied) else None
        if code in (None, -signal.SIGKILL) and oom_kills() > self._oom_kills:
            return Cause.OUT_OF_MEMORY, "the kernel killed the process for want of memory"
        if isinstance(error, ChildDied) and error.words:
            return Cause.PROCESS_DEATH, error.words
        if code is None:  # the forkserver has died with it
            when = "" if self._has_begun else " before the task began"
            return Cause.PROCESS_DEATH, f"the process was killed, or ended itself{when}: its exit code is not known"
        if code < 0:
            return Cause.PROCESS_DEATH, f"killed by {signal.Signals(-code).name}"
        return Cause.PROCESS_DEATH, f"the process ended itself with exit code {code}"

    def _answered(self, ended: Ended) -> AttemptEnd:
        now = _now_ms()
        if not ended.ok:
            cause = Cause.OUT_OF_MEMORY if ended.out_of_memory else Cause.ERROR
            return AttemptEnd(self._started_ms, now, cause=cause, detail=ended.error, invalid=ended.invalid)
        file = self._result_file if ended.value is None else None
        if file is not None and not self._taken():
            error = "what the process left in the result's place is no file of its own"
            return AttemptEnd(self._started_ms, now, cause=Cause.ERROR, detail=error)
        return AttemptEnd(self._started_ms, now, ended.value, file, ended.content_type, ended.suffix)

    def _taken(self) -> bool:
        """Moves the result out of the child's reach, and says whether it is a file that the child may well read.

        A link would have the node, which may be root, publish what the task itself could not read.
        """
        try:
            os.rename(self._handed_in, self._result_file)
            found = self._result_file.lstat()
        except OSError:
            return False
        if stat.S_ISREG(found.st_mode) and self.slot.user in (None, ChildUser(found.st_uid, found.st_gid)):
            return True
        with contextlib.suppress(OSError):
            self._result_file.unlink()
        return False

    def _request(self) -> Request:
        task, submission = self.job.task, self.job.submission
        return Request(
            task.id,
            task.attempt,
            submission.name,
            orjson.dumps(submission.payload),
            str(self.scratch),
            str(self._handed_in),
            str(self.slot.output.path),
            self.job.kind.memory_mb,
        )


def _now_ms() -> int:
    return time.time_ns() // 1_000_000

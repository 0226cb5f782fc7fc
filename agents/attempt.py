"""One attempt of a task in a slot of the pool: from its request to how it ended, whatever happens to its child.

Made by `agents.pool`, in the event loop. The end comes from one of three: the child's answer, the child's death, or
`stop` (time limit, cancel, drain, fencing), which kills the child's whole tree before the end is told to anybody.
"""

import asyncio
import contextlib
import os
import signal
import stat
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import orjson
from pebble import ProcessExpired

from agents.oom import oom_kills
from agents.pool_slot import PoolSlot
from agents.work import AttemptEnd, Job
from headrace.child import Ended, Request
from headrace.child_user import ChildUser
from headrace.cluster import Running
from headrace.process_tree import kill_trees
from headrace.states import Cause

_START_S = 60.0  # a child that has not begun by then never will: importing the kinds hangs
_NEVER_BEGAN = f"the process did not begin within {_START_S:.0f} s: do the task kinds hang while they are imported?"
_STARTS = 3  # an idle child may be killed once, hardly twice
_ANSWER_S = 0.5  # what a dead child has sent before it ended is read by then, and its exit code known


class Attempt:
    """`await run()` once. `begun` is called as the child takes it up; `stop` ends it from outside."""

    def __init__(self, job: Job, slot: PoolSlot, scratch: Path, result_file: Path, hear: Callable[[], None]) -> None:
        """`hear` takes in what children have told so far, which leads to `begun`."""
        self.job = job
        self.pid = 0  # of the child, once it has begun
        self.child_lost = True  # until it has answered
        self._hear = hear
        self._future: Future[Ended] | None = None
        self._slot = slot
        self.scratch = scratch
        self.memory_before = 0  # bytes that the idle child took, where its memory is limited
        self._result_file = result_file  # where no child can reach it
        self._handed_in = slot.results / result_file.name  # where the child puts it
        self._started_ms = _now_ms()
        self._loop = asyncio.get_running_loop()
        self._stopped: asyncio.Future[tuple[Cause, str]] = self._loop.create_future()
        self._died: asyncio.Future[None] = self._loop.create_future()
        self._limit = self._loop.call_later(_START_S, self.stop, Cause.PROCESS_DEATH, _NEVER_BEGAN)
        self._watched = -1
        self._oom_kills = oom_kills()

    @property
    def key(self) -> tuple[str, int]:
        return self.job.task.id, self.job.task.attempt

    @property
    def running(self) -> Running:
        return Running(self.job.task.id, self.job.submission.name, self.job.task.attempt, self._started_ms)

    def begun(self, pid: int) -> None:
        """The child has taken it up: from now the time limit counts, and its death is seen at once."""
        if self.pid:
            return
        self.pid, self._started_ms = pid, _now_ms()
        self._limit.cancel()
        limit_s = self.job.timeout_s
        self._limit = self._loop.call_later(
            limit_s, self.stop, Cause.TIMEOUT, f"the time limit of {limit_s:g} s has passed"
        )
        try:
            self._watched = os.pidfd_open(pid)
        except ProcessLookupError:
            self._dead()
        except (OSError, AttributeError):
            pass  # not Linux: pebble sees the death within 0.1 s
        else:
            self._loop.add_reader(self._watched, self._dead)

    def stop(self, cause: Cause, detail: str) -> None:
        """Ends the attempt with that cause, unless it has ended."""
        if not self._stopped.done():
            self._stopped.set_result((cause, detail))

    async def run(self) -> AttemptEnd:
        """How it ended. Afterwards nothing that it started is alive, but for a child that has answered."""
        try:
            for _ in range(_STARTS):
                answered = await self._wait()
                if not answered.done() or answered.cancelled() or answered.exception() is None:
                    break
                self._hear()
                if self.pid or self._stopped.done():
                    break
                # The slot's idle child was killed: nothing of the task has run, and it is not to be charged.
                await asyncio.to_thread(self.recover_slot)
            if answered.done() and not answered.exception():
                self.child_lost = False
                return self._answered(answered.result())
            return await self._cut_short(answered)
        finally:
            self._limit.cancel()
            self._unwatch()

    def recover_slot(self) -> None:
        """After the loss of the child: makes the slot fit for the next attempt. Takes up to a second, in a thread."""
        if self._future is not None:
            self._slot.recover(self._future, begun=self.pid != 0)

    async def _wait(self) -> "asyncio.Future[Ended]":
        """Until the child has answered, or has died, or must stop."""
        self._future = self._slot.submit(self._request())
        answered = asyncio.wrap_future(self._future)
        answered.add_done_callback(lambda f: f.cancelled() or f.exception())  # may come when nobody asks any more
        either: set[asyncio.Future[Any]] = {answered, self._stopped}
        await asyncio.wait({*either, self._died}, return_when=asyncio.FIRST_COMPLETED)
        if not answered.done() and not self._stopped.done():
            await asyncio.wait(either, timeout=_ANSWER_S, return_when=asyncio.FIRST_COMPLETED)
        return answered

    async def _cut_short(self, answered: "asyncio.Future[Ended]") -> AttemptEnd:
        self._hear()
        if self.pid:
            await asyncio.to_thread(kill_trees, [self.pid])
        ended_ms = _now_ms()
        with contextlib.suppress(OSError):
            self._handed_in.unlink()
        cause, detail = self._stopped.result() if self._stopped.done() else self._death(answered)
        chosen = cause is Cause.OUT_OF_MEMORY and not self._stopped.done()
        return AttemptEnd(self._started_ms, ended_ms, cause=cause, detail=detail, chosen=chosen)

    def _death(self, answered: "asyncio.Future[Ended]") -> tuple[Cause, str]:
        error = answered.exception() if answered.done() else None
        if error is None:
            return Cause.PROCESS_DEATH, "the process ended itself with exit code 0"  # which pebble does not tell
        code = int(error.exitcode) if isinstance(error, ProcessExpired) else None
        if code in (None, -signal.SIGKILL) and oom_kills() > self._oom_kills:
            return Cause.OUT_OF_MEMORY, "the kernel killed the process for want of memory"
        if code is None:  # the pool broke with it
            when = "" if self.pid else " before the task began"
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
        if stat.S_ISREG(found.st_mode) and self._slot.user in (None, ChildUser(found.st_uid, found.st_gid)):
            return True
        with contextlib.suppress(OSError):
            self._result_file.unlink()
        return False

    def _request(self) -> Request:
        task, submission = self.job.task, self.job.submission
        return Request(task.id, task.attempt, submission.name, orjson.dumps(submission.payload), str(self.scratch),
                       str(self._handed_in), str(self._slot.output.path), self.job.kind.memory_mb)  # fmt: skip

    def _dead(self) -> None:
        self._unwatch()
        if not self._died.done():
            self._died.set_result(None)

    def _unwatch(self) -> None:
        if self._watched >= 0:
            self._loop.remove_reader(self._watched)
            os.close(self._watched)
            self._watched = -1


def _now_ms() -> int:
    return time.time_ns() // 1_000_000

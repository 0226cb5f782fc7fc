"""One attempt of a task in a slot of the pool, from its request to its end, whatever happens to its child.

Made by `agents.execution.pool`, in the event loop. The end comes from the child's answer, from the child's death, or
from `stop` (time limit, cancel, drain, fencing). In the last two cases the child's whole process tree is killed before
the end is reported. `run` raises only what keeps the node from running attempts: no child, a full disk.
"""

import asyncio
import contextlib
import os
import signal
import stat
import time
from pathlib import Path
from typing import Any

from headrace.child.process_tree import kill_trees
from headrace.child.protocol import Ended, Request
from headrace.child.user import ChildUser
from headrace.contract.cluster import RunningAttempt
from headrace.contract.exact_json import encode_json
from headrace.contract.states import Cause
from headrace.kind_imports import too_slow_import

from .child import Child, ChildDied
from .job import AttemptEnd, Job
from .oom import oom_kills
from .slot import PoolSlot

IMPORT_S = 60.0  # for a child to import the kinds, machine-learning packages included, and to start the attempt
_MAX_STARTS = 3  # an idle child may be killed once, hardly twice


class Attempt:
    """Call `run` once; `stop` ends it from outside."""

    def __init__(self, job: Job, slot: PoolSlot, scratch: Path, result_file: Path, import_s: float = IMPORT_S) -> None:
        """`result_file`: where a large result ends up, in a directory that no child can reach."""
        self.job, self.slot, self.scratch = job, slot, scratch
        self.child: Child | None = None  # the one that runs it
        self.needs_new_child = True  # until the child has answered: it may be dead, or must be killed
        self.memory_before = 0  # bytes that the idle child took; measured only where memory is limited
        self._has_begun = False
        self._result_file = result_file
        self._child_result_file = slot.results / result_file.name  # where the child writes it
        self._started_ms = _now_ms()
        self._loop = asyncio.get_running_loop()
        self._stopped: asyncio.Future[tuple[Cause, str]] = self._loop.create_future()
        self._time_limit = self._loop.call_later(
            import_s, self.stop, Cause.PROCESS_DEATH, f"no process started the attempt: {too_slow_import(import_s)}"
        )
        self._oom_kills_before = oom_kills()

    @property
    def pid(self) -> int:
        """Pid of the child that runs it; 0 before it has begun."""
        return self.child.pid if self.child is not None and self._has_begun else 0

    @property
    def running(self) -> RunningAttempt:
        """What the node's heartbeats say about it."""
        return RunningAttempt(self.job.task.id, self.job.submission.name, self.job.task.attempt, self._started_ms)

    def stop(self, cause: Cause, detail: str) -> None:
        """Ends the attempt with that cause, unless it has ended."""
        if not self._stopped.done():
            self._stopped.set_result((cause, detail))

    async def run(self) -> AttemptEnd:
        """Runs it and returns how it ended. Of its processes only a child that has answered is alive afterwards."""
        try:
            for _ in range(_MAX_STARTS):
                answer = await self._run_in_child()
                if self._has_begun or self._stopped.done() or not answer.exception():
                    break
                # The slot's idle child was killed: nothing of the task has run, and the task is not charged.
            if answer.done() and not answer.exception():
                self.needs_new_child = False
                return self._end_by_answer(answer.result())
            return await self._end_by_kill(answer)
        finally:
            self._time_limit.cancel()

    async def _run_in_child(self) -> "asyncio.Future[Ended]":
        """Returns when the child has answered, has died, or must be stopped."""
        self.child = child = await self.slot.ready_child()
        answer = child.run_attempt(self._request(), self._on_begun)
        either: set[asyncio.Future[Any]] = {answer, self._stopped}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        return answer

    def _on_begun(self) -> None:
        """The child has started it: from now the time limit counts, and the child's death is the attempt's."""
        self._has_begun, self._started_ms = True, _now_ms()
        self._time_limit.cancel()
        limit_s = self.job.timeout_s
        detail = f"the attempt exceeded its time limit of {limit_s:g} s"
        self._time_limit = self._loop.call_later(limit_s, self.stop, Cause.TIMEOUT, detail)

    def _end_by_answer(self, ended: Ended) -> AttemptEnd:
        now = _now_ms()
        if not ended.ok:
            cause = Cause.OUT_OF_MEMORY if ended.out_of_memory else Cause.ERROR
            return AttemptEnd(
                self._started_ms,
                now,
                cause=cause,
                detail=ended.error,
                invalid=ended.invalid,
                permanent=ended.permanent,
            )
        file = self._result_file if ended.value is None else None
        if file is not None and not self._take_result_file():
            error = "the result file is missing, or is not a regular file that the task's user owns"
            return AttemptEnd(self._started_ms, now, cause=Cause.ERROR, detail=error)
        return AttemptEnd(self._started_ms, now, ended.value, file, ended.content_type, ended.suffix)

    async def _end_by_kill(self, answer: "asyncio.Future[Ended]") -> AttemptEnd:
        await asyncio.to_thread(kill_trees, [self.child.pid] if self.child else [])
        ended_ms = _now_ms()
        with contextlib.suppress(OSError):
            self._child_result_file.unlink()
        is_stopped = self._stopped.done()
        cause, detail = self._stopped.result() if is_stopped else self._cause_of_death(answer)
        oom_victim = cause is Cause.OUT_OF_MEMORY and not is_stopped
        return AttemptEnd(self._started_ms, ended_ms, cause=cause, detail=detail, oom_victim=oom_victim)

    def _cause_of_death(self, answer: "asyncio.Future[Ended]") -> tuple[Cause, str]:
        error = answer.exception()
        code = error.exit_code if isinstance(error, ChildDied) else None
        if code in (None, -signal.SIGKILL) and oom_kills() > self._oom_kills_before:
            return Cause.OUT_OF_MEMORY, "the kernel killed the process because memory ran out"
        if isinstance(error, ChildDied) and error.reason:
            return Cause.PROCESS_DEATH, error.reason
        if code is None:  # the forkserver, which learns the code, has died too
            when = "" if self._has_begun else " before the attempt began"
            return Cause.PROCESS_DEATH, f"the process ended{when}: its exit code is unknown"
        if code < 0:
            return Cause.PROCESS_DEATH, f"killed by {signal.Signals(-code).name}"
        return Cause.PROCESS_DEATH, f"the process exited with code {code}"

    def _take_result_file(self) -> bool:
        """Moves the result out of the child's reach; returns whether it is a file that the child itself could read.

        Through a link the node, which may be root, would publish a file that is closed to the task.
        """
        try:
            os.rename(self._child_result_file, self._result_file)
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
            id=task.id,
            attempt=task.attempt,
            name=submission.name,
            payload=encode_json(submission.payload),
            scratch=str(self.scratch),
            result_file=str(self._child_result_file),
            output=str(self.slot.output.path),
            memory_mb=self.job.kind.memory_mb,
        )


def _now_ms() -> int:
    return time.time_ns() // 1_000_000

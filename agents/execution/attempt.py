"""One attempt of a task in a slot of the pool, from its request to its end, whatever happens to its processes.

Made by `agents.execution.pool`, in the event loop. The end comes from the runner's answer, from the death of the runner
or its child, or from `stop` (time limit, cancel, drain, fencing), which kills the runner. The child ends what the
attempt leaves behind; where the child cannot, it is killed with all below it. Nothing is alive when `run` returns. It
raises only what keeps the node from running attempts: no process, a full disk.
"""

import asyncio
import contextlib
import os
import signal
import stat
import time
from pathlib import Path
from typing import Any

from headrace.child.protocol import INLINE_BYTES, Begun, Ended, Request
from headrace.child.user import ChildUser
from headrace.contract.cluster import RunningAttempt
from headrace.contract.exact_json import encode_json
from headrace.contract.states import Cause
from headrace.kind_imports import too_slow_import
from headrace.kind_rules import is_valid_suffix

from .child import Child, RunnerDied
from .job import AttemptEnd, Job
from .oom import oom_kills, recent_oom_kills
from .slot import PoolSlot

IMPORT_S = 60.0  # for a child to import the kinds, machine-learning packages included, and to start the attempt
_MAX_STARTS = 3  # an idle child may be killed once, hardly twice
_GONE_S = 15.0  # from the runner's kill to the child's word that nothing is left; longer than it waits for trackers


class Attempt:
    """Call `run` once; `stop` ends it from outside."""

    def __init__(self, job: Job, slot: PoolSlot, scratch: Path, result_file: Path, import_s: float = IMPORT_S) -> None:
        """`result_file`: where a large result ends up, in a directory that no child can reach."""
        self.job, self.slot, self.scratch = job, slot, scratch
        self.child: Child | None = None  # the one that runs it
        self.needs_new_child = (
            True  # until the child has said that the runner is gone: it may be dead, or must be killed
        )
        self.memory_before = 0  # bytes that the child took without a runner; 0 where no kind limits memory
        self._runner = 0  # pid
        self._result_file = result_file
        self._child_result_file = slot.results / result_file.name  # where the child writes it
        self._started_ms = _now_ms()
        self._loop = asyncio.get_running_loop()
        self._stopped: asyncio.Future[tuple[Cause, str]] = self._loop.create_future()
        self._time_limit = self._loop.call_later(
            import_s, self.stop, Cause.PROCESS_DEATH, f"no process started the attempt: {too_slow_import(import_s)}"
        )
        self._oom_kills_before = recent_oom_kills()

    @property
    def pids(self) -> set[int]:
        """Pids of the runner and of its child, below which all else is that it has started; empty before it begins."""
        return {self._runner, self.child.pid} if self.child is not None and self._runner else set()

    @property
    def running(self) -> RunningAttempt:
        """What the node's heartbeats say about it."""
        return RunningAttempt(self.job.task.id, self.job.submission.name, self.job.task.attempt, self._started_ms)

    def stop(self, cause: Cause, detail: str) -> None:
        """Ends the attempt with that cause, unless it has ended."""
        if not self._stopped.done():
            self._stopped.set_result((cause, detail))

    async def run(self) -> AttemptEnd:
        """Runs it and returns how it ended. All of its processes are dead then."""
        try:
            for _ in range(_MAX_STARTS):
                answer = await self._run_in_child()
                if self._runner or self._stopped.done() or not answer.exception():
                    break
                # The slot's idle child was killed: nothing of the task has run, and the task is not charged.
            has_answered = answer.done() and not answer.exception()
            await self._end_processes(answer)
            if has_answered:
                return self._end_by_answer(answer.result())
            return self._end_without_answer(answer)
        finally:
            self._time_limit.cancel()

    async def _run_in_child(self) -> "asyncio.Future[Ended]":
        """Returns when the attempt has ended in its child, or must be stopped."""
        self.child = child = await self.slot.ready_child()
        answer = child.run_attempt(self._request(), self._on_begun)
        either: set[asyncio.Future[Any]] = {answer, self._stopped}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        return answer

    def _on_begun(self, begun: Begun) -> None:
        """The runner has started it: from now the time limit counts, and the runner's death is the attempt's."""
        self._runner, self.memory_before, self._started_ms = begun.pid, begun.memory_before, _now_ms()
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
        if not is_valid_suffix(ended.suffix):  # only a forged answer has such a one; it would stop the storekeeper
            return AttemptEnd(self._started_ms, now, cause=Cause.ERROR, detail="the answer has an invalid suffix")
        if ended.value is not None and len(ended.value) > INLINE_BYTES:  # forged too; no record would take it
            return AttemptEnd(self._started_ms, now, cause=Cause.ERROR, detail="the answer's result is too large")
        file = self._result_file if ended.value is None else None
        if file is not None and not self._take_result_file():
            error = "the result file is missing, or is not a regular file that the task's user owns"
            return AttemptEnd(self._started_ms, now, cause=Cause.ERROR, detail=error)
        took_s = self.child.took_s if self.child is not None else 0.0
        return AttemptEnd(self._started_ms, now, ended.value, file, ended.content_type, ended.suffix, took_s)

    async def _end_processes(self, answer: "asyncio.Future[Ended]") -> None:
        """Returns when all processes of the attempt are dead, the child included unless it has ended them itself."""
        assert self.child is not None
        if not answer.done() and self.child.kill_runner():
            await asyncio.wait({answer}, timeout=_GONE_S)
        self.needs_new_child = not answer.done() or self.child.is_dead
        if self.needs_new_child:
            await asyncio.to_thread(self.child.kill_tree)

    def _end_without_answer(self, answer: "asyncio.Future[Ended]") -> AttemptEnd:
        error = answer.exception() if answer.done() else None
        if isinstance(error, OSError) and not self._stopped.done():
            raise error
        with contextlib.suppress(OSError):
            self._child_result_file.unlink()
        is_stopped = self._stopped.done()
        cause, detail = self._stopped.result() if is_stopped else self._cause_of_death(error)
        oom_victim = cause is Cause.OUT_OF_MEMORY and not is_stopped
        return AttemptEnd(self._started_ms, _now_ms(), cause=cause, detail=detail, oom_victim=oom_victim)

    def _cause_of_death(self, error: BaseException | None) -> tuple[Cause, str]:
        code = error.exit_code if isinstance(error, RunnerDied) else None
        if code in (None, -signal.SIGKILL) and oom_kills() > self._oom_kills_before:
            return Cause.OUT_OF_MEMORY, "the kernel killed the process because memory ran out"
        if isinstance(error, RunnerDied) and error.reason:
            return Cause.PROCESS_DEATH, error.reason
        if code is None:  # the child, or the forkserver, which learns the code, has died too
            when = "" if self._runner else " before the attempt began"
            return Cause.PROCESS_DEATH, f"the process ended{when}: its exit code is unknown"
        if code < 0:
            return Cause.PROCESS_DEATH, f"killed by {_signal_name(-code)}"
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


def _signal_name(number: int) -> str:
    """`SIGSEGV`; `signal 40` for a real-time signal, most of which have no name of their own."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _now_ms() -> int:
    return time.time_ns() // 1_000_000

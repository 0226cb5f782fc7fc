"""The pool's jobs that wait or run: what a cancel, a drain or the fence stops, and what heartbeats report.

Used by `agents.execution.pool`, in its event loop. A job waits for the jobs before it in its slot, for a working slot,
or for its exclusive run.
"""

from collections.abc import Collection

from headrace.contract.cluster import RunningAttempt
from headrace.contract.states import Cause

from .attempt import Attempt
from .job import Job, Key


class WaitingJob:
    """A job that has not begun; the pool sees `stopped` when its turn comes."""

    stopped: tuple[Cause, str] | None = None

    def is_stopped(self) -> bool:
        return self.stopped is not None

    def stop(self, cause: Cause, detail: str) -> None:
        self.stopped = cause, detail


class InFlight:
    """Jobs by their key; each waits, then runs, and may wait again for its exclusive run."""

    def __init__(self) -> None:
        self._waiting: dict[Key, WaitingJob] = {}
        self._attempts: dict[Key, Attempt] = {}

    def add_waiting(self, job: Job) -> WaitingJob:
        """The job waits. Called again while it does, returns the same object."""
        return self._waiting.setdefault(job.key, WaitingJob())

    def remove_waiting(self, job: Job) -> None:
        self._waiting.pop(job.key, None)

    def add_running(self, attempt: Attempt) -> None:
        self._attempts[attempt.job.key] = attempt

    def remove_running(self, job: Job) -> None:
        del self._attempts[job.key]

    def keys(self) -> set[Key]:
        """Of all jobs that wait or run."""
        return {*self._waiting, *self._attempts}

    def attempts(self) -> Collection[Attempt]:
        """The running ones; a live view."""
        return self._attempts.values()

    def is_running(self, task_id: str, attempt: int) -> bool:
        return any(key[:2] == (task_id, attempt) for key in self._attempts)

    def running(self) -> tuple[RunningAttempt, ...]:
        """From any thread."""
        return tuple(attempt.running for attempt in list(self._attempts.values()))

    def stop_task(self, task_id: str, cause: Cause, detail: str) -> bool:
        """Stops the task's jobs; returns whether there was one."""
        found: list[Attempt | WaitingJob] = [a for (key_id, *_), a in self._attempts.items() if key_id == task_id]
        found += [w for (key_id, *_), w in self._waiting.items() if key_id == task_id]
        for job in found:
            job.stop(cause, detail)
        return bool(found)

    def stop_all(self, cause: Cause, detail: str) -> None:
        found: list[Attempt | WaitingJob] = [*self._attempts.values(), *self._waiting.values()]
        for job in found:
            job.stop(cause, detail)

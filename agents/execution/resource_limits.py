"""Limits on the disk space and memory of an attempt, over all of its processes.

A runner enforces both limits on itself where it can (`headrace.child.attempt`: the size of one file, the memory of one
process), so a task meets them as an error at its own line. Many files or many processes get past that: here the node
measures each attempt twice a second, and stops those above a limit. Used by `agents.execution.pool`.
"""

import asyncio
import contextlib
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from headrace.child.process_tree import anonymous_bytes, descendants, processes
from headrace.contract.states import Cause

from .job import Job

_MEASURE_EVERY_S = 0.5
_MIB = 1024 * 1024
_SLACK_MB = 32  # the child's own limit counts a little less than these figures, and should strike first


@dataclass(frozen=True, slots=True)
class Limits:
    """Of each slot, in MiB; 0 = no limit. `memory_mb` is for kinds without a limit of their own."""

    memory_mb: int = 0
    scratch_mb: int = 0


NO_LIMITS = Limits()


class LimitedAttempt(Protocol):
    """A running attempt that can be stopped: `agents.execution.attempt`."""

    job: Job
    scratch: Path
    memory_before: int

    @property
    def pids(self) -> set[int]: ...

    def stop(self, cause: Cause, detail: str) -> None: ...


async def enforce_limits(limits: Limits, attempts: Callable[[], Iterable[LimitedAttempt]]) -> None:
    """Measures the running attempts until it is cancelled."""
    while True:
        await asyncio.sleep(_MEASURE_EVERY_S)
        for attempt in [a for a in attempts() if a.pids]:
            exceeded = await asyncio.to_thread(_exceeded_limit, attempt, limits)
            if exceeded is not None:
                attempt.stop(*exceeded)


def directory_bytes(path: Path) -> int:
    """Bytes on disk of all files below the path; unreadable ones count nothing."""
    total = 0
    for folder, _, files in os.walk(path):
        for name in files:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(folder, name)).st_blocks * 512
    return total


def _exceeded_limit(attempt: LimitedAttempt, limits: Limits) -> tuple[Cause, str] | None:
    if limits.scratch_mb and directory_bytes(attempt.scratch) > limits.scratch_mb * _MIB:
        return Cause.ERROR, f"its scratch files exceeded the limit of {limits.scratch_mb} MiB (HEADRACE_SCRATCH_MB)"
    memory_mb = attempt.job.kind.memory_mb or limits.memory_mb
    if memory_mb:
        pids = attempt.pids
        if (
            anonymous_bytes(pids | descendants(pids, processes())) - attempt.memory_before
            > (memory_mb + _SLACK_MB) * _MIB
        ):
            setting = "memory_mb of its kind" if attempt.job.kind.memory_mb else "HEADRACE_SLOT_MEMORY_MB"
            return Cause.OUT_OF_MEMORY, f"its processes together exceeded the limit of {memory_mb} MiB ({setting})"
    return None

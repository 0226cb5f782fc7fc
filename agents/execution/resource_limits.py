"""What an attempt may take of the node's disk and memory, over all of its processes.

A child keeps itself to both limits where it can (`headrace.child.attempt`: one file's size, one process's memory), so
that a task hears of it as an error at its own line. What gets past that, in many files or many processes, is seen here
from outside, twice a second, and ends the attempt. Used by `agents.execution.pool`.
"""

import asyncio
import contextlib
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from agents.execution.job import Job
from headrace.child.process_tree import descendants, processes
from headrace.contract.states import Cause

_LOOK_S = 0.5
_MIB = 1024 * 1024
_SLACK_MB = 32  # a child's own limit counts a little less than the kernel's figures: it shall speak first


@dataclass(frozen=True, slots=True)
class Limits:
    """Of each slot. `memory_mb` holds for kinds that name none of their own; 0 = no limit."""

    memory_mb: int = 0
    scratch_mb: int = 0


NO_LIMITS = Limits()


class Limited(Protocol):
    """An attempt that can be ended: `agents.execution.attempt`."""

    job: Job
    scratch: Path
    memory_before: int

    @property
    def pid(self) -> int: ...

    def stop(self, cause: Cause, detail: str) -> None: ...


async def keep_to_limits(limits: Limits, attempts: Callable[[], Iterable[Limited]]) -> None:
    """Looks at what runs until it is cancelled."""
    while True:
        await asyncio.sleep(_LOOK_S)
        for attempt in [a for a in attempts() if a.pid]:
            over = await asyncio.to_thread(_over, attempt, limits)
            if over is not None:
                attempt.stop(*over)


def directory_bytes(path: Path) -> int:
    """What is below it takes on disk; what cannot be looked at counts nothing."""
    total = 0
    for folder, _, files in os.walk(path):
        for name in files:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(folder, name)).st_blocks * 512
    return total


def anonymous_bytes(pids: Iterable[int]) -> int:
    """Memory of processes that no file is behind; what they share is counted once."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError, ValueError), open(f"/proc/{pid}/smaps_rollup", "rb") as f:
            for line in f:
                if line.startswith((b"Pss_Anon:", b"Pss_Shmem:", b"SwapPss:")):
                    total += int(line.split()[1]) * 1024
    return total


def _over(attempt: Limited, limits: Limits) -> tuple[Cause, str] | None:
    if limits.scratch_mb and directory_bytes(attempt.scratch) > limits.scratch_mb * _MIB:
        return Cause.ERROR, f"its files in scratch took more than the {limits.scratch_mb} MiB that a slot gives"
    memory_mb = attempt.job.kind.memory_mb or limits.memory_mb
    if memory_mb:
        pids = {attempt.pid} | descendants([attempt.pid], processes())
        if anonymous_bytes(pids) - attempt.memory_before > (memory_mb + _SLACK_MB) * _MIB:
            return Cause.OUT_OF_MEMORY, f"its processes took more than {memory_mb} MiB together"
    return None

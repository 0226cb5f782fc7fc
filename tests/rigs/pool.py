"""A pool with real children for tests, and jobs made from the kinds of `hard_tasks`."""

import asyncio
import os
import signal
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson

from agents.execution import oom
from agents.execution.job import AttemptEnd, Job
from agents.execution.pool import Pool
from headrace.contract.cluster import KindInfo
from headrace.contract.journal import Claim
from headrace.contract.progress import Progress
from headrace.contract.records import Source
from headrace.contract.submission import Submission
from headrace.contract.task import Task

HARD = str(Path(__file__).parent / "hard_tasks.py")
SLOTS = 2


class Bench:
    """A pool, and jobs made from the kinds that it has loaded."""

    def __init__(self, pool: Pool, kinds: list[KindInfo], progress: list[Progress], results: Path) -> None:
        self.pool, self.progress, self.results = pool, progress, results
        self._kinds = {k.name: k for k in kinds}

    def job(self, name: str, timeout_s: float | None = None, **payload: Any) -> Job:
        submission = Submission(name, payload, "demo", timeout_s=timeout_s)
        task = Task(
            str(uuid.uuid4()),
            orjson.dumps({"name": name}),
            attempt=1,
            source=Source("tasks.normal", 0, 0),
            submitted_ms=0,
        )
        return Job(
            Claim((task,), by="boot", for_="boot", generation=1, node="node"), task, submission, self._kinds[name]
        )

    async def run(self, name: str, timeout_s: float | None = None, **payload: Any) -> AttemptEnd:
        return await self.pool.run(self.job(name, timeout_s, **payload))

    async def who(self) -> dict[str, int]:
        return orjson.loads((await self.run("who")).value or b"")  # type: ignore[no-any-return]


async def until(met: Callable[[], bool], timeout_s: float = 5.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not met():
        assert time.monotonic() < deadline, f"not within {timeout_s} s"
        await asyncio.sleep(0.01)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


class Kernel:
    """Imitates the kernel's out-of-memory kills: SIGKILL and a count in a file."""

    def __init__(self, count: Path) -> None:
        self._count = count
        self._kills = 0
        oom._Newest.read_at = float("-inf")  # of an earlier test's count, which was higher
        count.write_text("oom_kill 0\n")

    def kills(self, pid: int) -> None:
        self._kills += 1
        self._count.write_text(f"oom 9\noom_kill {self._kills}\n")
        os.kill(pid, signal.SIGKILL)

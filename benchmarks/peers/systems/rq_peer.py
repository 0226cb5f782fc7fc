"""RQ: two workers that fork for each job. `best`, for the crash rows: retries, and short times to notice a death."""

import sys
import time
from collections.abc import Iterable
from typing import Any

import redis
from rq import Queue, Retry

from .. import work
from ..redis_flush import flush
from ..system import Handle, NotDone, System, TaskFailed

_FUNCTIONS = {name: f"{work.__name__}.{name}" for name in work.FUNCTIONS}
_BLOCK_S = 4  # redis-py gives up a blocking read after 5 s
_RECOVERY = ["--maintenance-interval", "5", "--worker-ttl", "20"]


class Sys(System):
    def commands(self) -> list[list[str]]:
        worker = [sys.executable, "-c", "from rq.cli import main; main()", "worker", "high", "default"]
        extra = _RECOVERY if self.bench.variant == "best" else []
        return [[*worker, "--url", self.bench.redis, "--quiet", *extra] for _ in range(2)]

    def open(self) -> None:
        flush(self.bench.redis)
        connection = redis.Redis.from_url(self.bench.redis)
        self._queues = {name: Queue(name, connection=connection) for name in ("default", "high")}
        self._ended = dict.fromkeys(self._queues, 0)
        self._retries = {"retry": Retry(max=3)} if self.bench.variant == "best" else {}

    def submit(self, name: str, *args: Any, priority: str = "normal") -> Handle:
        limit = {"job_timeout": 10} if self._retries else {}
        queue = self._queue(priority)
        self._ended[queue.name] += 1
        return queue.enqueue(_FUNCTIONS[name], args=args, **self._retries, **limit)

    def submit_many(self, name: str, calls: Iterable[tuple[Any, ...]], priority: str = "normal") -> Any:
        limit = {"timeout": 10} if self._retries else {}
        jobs = [Queue.prepare_data(_FUNCTIONS[name], args=call, **self._retries, **limit) for call in calls]
        queue = self._queue(priority)
        self._ended[queue.name] += len(jobs)
        return queue.enqueue_many(jobs)

    def wait(self, handle: Handle, timeout_s: float = 60.0) -> object:
        deadline = time.monotonic() + timeout_s
        while (left := deadline - time.monotonic()) > 0:
            result = handle.latest_result(timeout=max(1, min(_BLOCK_S, int(left))))
            if result is None:
                continue
            if result.type.name == "SUCCESSFUL":
                return result.return_value
            if result.type.name != "RETRIED":
                raise TaskFailed(str(result.exc_string)[-200:])
            time.sleep(0.02)
        raise NotDone

    def wait_all(self, handles: Any, timeout_s: float = 300.0) -> None:
        """Asks for the number of ended jobs every 10 ms, as reading each result would take longer than the jobs."""
        deadline = time.monotonic() + timeout_s
        queue = self._queues[handles[0].origin]
        while queue.finished_job_registry.get_job_count(cleanup=False) < self._ended[queue.name]:
            if time.monotonic() > deadline:
                raise NotDone
            time.sleep(0.01)

    def _queue(self, priority: str) -> Queue:
        return self._queues["high" if priority == "high" else "default"]
